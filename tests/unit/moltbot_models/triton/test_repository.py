"""Model specifications become a Triton repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.triton.repository import ModelSpec, config_of, configs_of, triton_name, write_repository

GOLDEN = Path(__file__).parent / "golden"
TEXT = ModelSpec("local/llm:v1", "text-generation", Path("/models/llm"), {"kv_cache_mib": "64", "compute": "bf16"})
EMBEDDING = ModelSpec("minilm", "embedding", Path("/models/minilm"))
RERANK = ModelSpec("judge", "rerank", Path("/models/judge"), {"queue_delay_us": "200", "threads": "1"})
CLASSES = ModelSpec(
    "moods", "classification", Path("/models/moods"), {"dynamic_batching": "false"}, ("glad", "sad", 'so "so"')
)
SEES = ModelSpec("sees", "text-generation", Path("/models/sees"), {"batch_images": "4"}, image_rows=(16, 96))


@pytest.mark.parametrize(
    ("spec", "name"), [(TEXT, "text"), (EMBEDDING, "embedding"), (RERANK, "rerank"), (CLASSES, "classification")]
)
def test_configurations_equal_the_golden_files(spec: ModelSpec, name: str) -> None:
    file = GOLDEN / f"{name}.pbtxt"
    found = config_of(spec, Path("/lib"))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        file.write_text(found)
    assert found == file.read_text()


def test_a_model_that_takes_images_is_an_ensemble_of_three_golden_files() -> None:
    for name, config in configs_of(SEES, Path("/lib"), 7).items():
        file = GOLDEN / f"{name.partition('~')[2].partition('-')[0] or 'ensemble'}_of_images.pbtxt"
        if os.environ.get("UPDATE_GOLDEN") == "1":
            file.write_text(config.text)
        assert config.text == file.read_text()


def test_the_parts_of_an_ensemble_are_named_as_no_model_can_be(tmp_path: Path) -> None:
    write_repository(tmp_path / "models", [SEES])
    names = {file.name for file in (tmp_path / "models").iterdir()}
    assert names == {"sees", "sees~vision-1", "sees~text-1"}
    assert all(triton_name(name) != name for name in names if "~" in name)
    assert (tmp_path / "models" / "sees" / "1").is_dir()


def test_a_repository_holds_each_model_under_its_name_and_nothing_older(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_repository(root, [ModelSpec("old", "embedding", tmp_path)])
    write_repository(root, [TEXT, EMBEDDING])
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    name = triton_name(TEXT.id)
    assert files == {f"{model}/{file}" for model in (name, "minilm") for file in ("config.pbtxt", "1/model.py")}


def test_ids_that_differ_only_in_unsafe_characters_get_different_names() -> None:
    assert triton_name("a-b.c_1") == "a-b.c_1"
    assert len({triton_name("a/b"), triton_name("a:b"), triton_name("a_b")}) == 3
    assert "/" not in triton_name("../../etc")


@pytest.mark.parametrize(
    "options", [{"colour": "1"}, {"kv": "u4"}, {"threads": "-1"}, {"threads": '1" } }'}, {"batch_images": "0"}]
)
def test_options_that_do_not_exist_are_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        config_of(ModelSpec("m", "text-generation", Path("/m"), options), Path("/lib"))


@pytest.mark.parametrize(
    "options", [{"precision": "fp8"}, {"dimensions": "3"}, {"bucket_tokens": "0"}, {"dynamic_batching": "maybe"}]
)
def test_options_that_a_reranker_cannot_have_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        config_of(ModelSpec("m", "rerank", Path("/m"), options), Path("/lib"))


def test_two_models_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="same id"):
        write_repository(tmp_path / "models", [EMBEDDING, EMBEDDING])
