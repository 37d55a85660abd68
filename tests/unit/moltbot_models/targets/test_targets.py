"""Models become repositories of other engines: Triton reads the configurations, ONNX says what the encoder says."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import moltbot_models
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.encoder import Classifier, Encoder, EncoderConfig
from moltbot_models.encoder.calibrate import calibrate, write_ranges
from moltbot_models.encoder.checkpoint import EncoderCheckpoint
from moltbot_models.encoder.shape import EncoderShape
from moltbot_models.engine.config import EngineError
from moltbot_models.gate import GateFailed
from moltbot_models.gate.encoder import EncoderBounds
from moltbot_models.gate.scores import ScoreBounds
from moltbot_models.gate.texts import GateTexts
from moltbot_models.manifest import Manifest
from moltbot_models.manifest_yaml import load_manifests
from moltbot_models.targets.build import TARGETS, build
from moltbot_models.targets.onnx_encoder import build_onnx
from moltbot_models.targets.onnx_run import runner
from moltbot_testkit.random_encoder import write_encoder

GOLDEN = Path(__file__).parent / "golden"
TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
WORDS = [" ".join(f"w{3 + (7 * n + k) % 40}" for k in range(1 + n % 30)) for n in range(60)]
TEXTS = GateTexts(tuple(WORDS[:40]), tuple(WORDS[40:]))
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.Identity()"}}
LOOSE = EncoderBounds(cosine_mean=0.9, cosine_min=0.5, top_k_agreement=0.3)


def manifest(path: Path, task: str, **options: str) -> Manifest:
    return Manifest("acme/model:1", task, "triton", path=str(path), context_length=64, options=options)


def made(directory: Path, out: Path, target: str, task: str = "embedding", bounds: object = None, **options: str):
    return build(manifest(directory, task, **options), target, out, "0" * 64, TEXTS, bounds)


def files_of(out: Path) -> set[str]:
    return {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}


def parsed(file: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean_tokens"), ("roberta", "cls_token")])
def test_onnx_says_what_the_encoder_says(tmp_path: Path, family: str, pooling: str) -> None:
    write_encoder(tmp_path, family)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    shape, checkpoint = EncoderShape.read(tmp_path), EncoderCheckpoint(tmp_path / "model.safetensors")
    exact, _ = Encoder.load(tmp_path, EncoderConfig("f32", threads=1)).embed(WORDS)
    rows = Encoder.load(tmp_path, EncoderConfig("f32", threads=1)).rows(WORDS)
    found = runner(build_onnx(shape, checkpoint))(rows)
    np.testing.assert_allclose(found, exact, atol=2e-5)
    groups = calibrate(tmp_path, WORDS, budget=1.0, threads=1).groups
    quantised = build_onnx(shape, checkpoint, groups)
    kinds = [node.op_type for node in quantised.graph.node]
    assert kinds.count("QuantizeLinear") == len(groups) == 6
    near = runner(quantised)(rows)
    assert (near * exact).sum(1).min() > 0.98
    assert not np.allclose(near, exact, atol=1e-5), "nothing was quantised"


@pytest.mark.parametrize(
    ("family", "labels", "changes"),
    [("bert", 3, {}), ("bert", 3, {"problem_type": "multi_label_classification"}), ("xlm-roberta", 1, IDENTITY)],
)
def test_heads_that_score_say_what_the_classifier_says(
    tmp_path: Path, family: str, labels: int, changes: dict[str, object]
) -> None:
    write_encoder(tmp_path, family, labels, **changes)
    model = Classifier.load(tmp_path, EncoderConfig("f32", threads=1))
    rows = model.rows(WORDS) + (model.pairs("w5 w6", WORDS) if labels == 1 else [])
    checkpoint = EncoderCheckpoint(tmp_path / "model.safetensors")
    graph = build_onnx(EncoderShape.read(tmp_path, "classifier"), checkpoint, activation=model.activation)
    np.testing.assert_allclose(runner(graph)(rows), model.score(rows)[0], atol=2e-5)


SCORE_LOOSE = ScoreBounds(rank_correlation=0.5, label_agreement=0.5, probability_error_mean=0.2)


@pytest.mark.parametrize(
    ("task", "family", "labels"), [("rerank", "bert", 1), ("rerank", "roberta", 1), ("classification", "bert", 3)]
)
@pytest.mark.parametrize("target", ["triton-ort-trt", "triton-trt"])
def test_scores_from_a_gpu_have_the_tensors_that_they_have_on_a_cpu(
    tmp_path: Path, target: str, task: str, family: str, labels: int
) -> None:
    write_encoder(tmp_path / "model", family, labels)
    report = made(tmp_path / "model", tmp_path / "out", target, task, SCORE_LOOSE, precision="int8")
    assert report is not None
    assert report.passed
    made(tmp_path / "model", tmp_path / "cpu", "triton-cpu", task)
    (cpu,) = (parsed(file) for file in (tmp_path / "cpu").rglob("config.pbtxt"))
    configs = {file.parent.name: parsed(file) for file in (tmp_path / "out").rglob("config.pbtxt")}
    whole = next(config for config in configs.values() if config.platform == "ensemble")
    assert whole.name == cpu.name
    assert list(whole.input) == list(cpu.input)
    assert list(whole.output) == list(cpu.output)
    assert whole.parameters["labels"] == cpu.parameters["labels"]
    for step in whole.ensemble_scheduling.step:
        part = configs[step.model_name]
        assert set(step.input_map) == {one.name for one in part.input}
        assert set(step.output_map) == {one.name for one in part.output}
    (file,) = (tmp_path / "out").rglob("model.onnx")
    engine = next(config for name, config in configs.items() if name.endswith("-encoder"))
    graph = onnx.load(file).graph
    assert {one.name for one in engine.input} == {one.name for one in graph.input}
    assert {one.name for one in engine.output} == {one.name for one in graph.output}
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    if target == "triton-trt" and family == "bert":
        assert "token_type_ids:64x64" in (tmp_path / "out" / "build.sh").read_text()


@pytest.mark.parametrize("task", ["rerank", "classification"])
def test_scores_that_stray_too_far_are_not_written(tmp_path: Path, task: str) -> None:
    write_encoder(tmp_path / "model", labels=1 if task == "rerank" else 3)
    strict = ScoreBounds(rank_correlation=1.1, label_agreement=1.1)
    with pytest.raises(GateFailed, match="int8"):
        made(tmp_path / "model", tmp_path / "out", "triton-trt", task, strict, precision="int8")
    assert not (tmp_path / "out").exists()


def test_a_reranker_of_several_classes_is_not_built(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", labels=3)
    with pytest.raises(EngineError, match="one class"):
        made(tmp_path / "model", tmp_path / "out", "triton-trt", "rerank")


@pytest.mark.parametrize("target", ["triton-ort-trt", "triton-trt"])
def test_an_encoder_for_a_gpu_keeps_the_tensors_of_every_encoder(tmp_path: Path, target: str) -> None:
    write_encoder(tmp_path / "model")
    report = made(tmp_path / "model", tmp_path / "out", target, bounds=LOOSE, precision="int8", queue_delay_us="200")
    assert report is not None
    assert report.passed
    configs = {file.parent.name: parsed(file) for file in (tmp_path / "out").rglob("config.pbtxt")}
    assert len(configs) == 3
    whole = next(config for config in configs.values() if config.platform == "ensemble")
    assert [one.name for one in whole.input] == ["TEXT"]
    assert [one.name for one in whole.output] == ["EMBEDDING", "TOKENS"]
    for step in whole.ensemble_scheduling.step:
        part = configs[step.model_name]
        assert set(step.input_map) == {one.name for one in part.input}
        assert set(step.output_map) == {one.name for one in part.output}
    engine = next(config for name, config in configs.items() if name.endswith("-encoder"))
    assert engine.dynamic_batching.max_queue_delay_microseconds == 200
    assert engine.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    if target == "triton-ort-trt":
        (accelerator,) = engine.optimization.execution_accelerators.gpu_execution_accelerator
        assert (accelerator.name, accelerator.parameters["precision_mode"]) == ("tensorrt", "INT8")
        assert (tmp_path / "out" / engine.name / "1" / "model.onnx").is_file()
    else:
        script = (tmp_path / "out" / "build.sh").read_text()
        assert all(plan.removeprefix("model-sm").removesuffix(".plan") for plan in engine.cc_model_filenames.values())
        assert "--maxShapes=input_ids:64x64,attention_mask:64x64" in script
        assert (tmp_path / "out" / engine.name / "model.onnx").is_file()


def test_what_was_calibrated_when_the_model_was_added_is_not_calibrated_again(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model")
    found = calibrate(tmp_path / "model", WORDS, budget=1.0, threads=1)
    one = dict(list(found.groups.items())[:1])
    write_ranges(tmp_path / "ranges.json", dataclasses.replace(found, groups=one))
    options = {"precision": "int8", "ranges": str(tmp_path / "ranges.json")}
    made(tmp_path / "model", tmp_path / "out", "triton-ort-trt", bounds=LOOSE, **options)
    (file,) = (tmp_path / "out").rglob("model.onnx")
    assert [node.op_type for node in onnx.load(file).graph.node].count("QuantizeLinear") == 1


@pytest.mark.parametrize("target", ["triton-vllm", "triton-trtllm"])
def test_a_text_model_is_reached_as_an_upstream(tmp_path: Path, target: str) -> None:
    assert made(TINY, tmp_path / "out", target, "text-generation") is None
    (upstream,) = load_manifests(tmp_path / "out" / "manifest.yaml")
    assert (upstream.id, upstream.provider, upstream.context_length) == ("acme/model:1", "openai", 64)
    if target == "triton-vllm":
        (file,) = (tmp_path / "out").rglob("config.pbtxt")
        assert parsed(file).backend == "vllm"
        assert parsed(file).name == file.parent.name == upstream.upstream_model
        arguments = json.loads((file.parent / "1" / "model.json").read_text())
        assert (arguments["model"], arguments["max_model_len"]) == (str(TINY), 64)


def test_the_targets_equal_the_golden_files(tmp_path: Path) -> None:
    models = {"embedding": tmp_path / "model", "rerank": tmp_path / "judge"}
    write_encoder(models["embedding"])
    write_encoder(models["rerank"], labels=1)
    found: dict[str, str] = {}
    for target in TARGETS:
        tasks = {"": "embedding", "-rerank": "rerank"} if target.endswith("-trt") else {"": "text-generation"}
        for suffix, task in tasks.items():
            out = tmp_path / f"{target}{suffix}"
            made(models.get(task, TINY), out, target, task)
            for name in sorted(files_of(out)):
                if name.endswith((".pbtxt", ".sh", ".json", ".yaml")):
                    text = (out / name).read_text().replace(str(TINY.parents[2]), "/library")
                    found[f"{target}{suffix}/{name}"] = text.replace(str(tmp_path), "/tmp")
    for name, text in found.items():
        file = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN") == "1":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert text == file.read_text(), name
    assert {str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob("*") if file.is_file()} == set(found)


def test_scripts_are_shell_and_can_be_run(tmp_path: Path) -> None:
    for target in ("triton-vllm", "triton-trtllm"):
        made(TINY, tmp_path / target, target, "text-generation")
    write_encoder(tmp_path / "model")
    made(tmp_path / "model", tmp_path / "triton-trt", "triton-trt")
    scripts = [*tmp_path.rglob("*.sh")]
    assert len(scripts) == 4
    for script in scripts:
        assert os.access(script, os.X_OK)
        subprocess.run(["sh", "-n", script], check=True)
    unused = subprocess.run([tmp_path / "triton-trtllm" / "build.sh"], capture_output=True, text=True, check=False)
    assert (unused.returncode, "usage" in unused.stderr) == (64, True)


def test_trtllm_takes_nvidias_model_with_our_settings(tmp_path: Path) -> None:
    made(TINY, tmp_path / "out", "triton-trtllm", "text-generation")
    theirs = tmp_path / "source" / "triton_backend/all_models/llmapi/tensorrt_llm"
    (theirs / "1").mkdir(parents=True)
    (theirs / "1" / "model.yaml").write_text("model: theirs")
    (theirs / "config.pbtxt").write_text('name: "tensorrt_llm"\nbackend: "python"\n')
    subprocess.run([tmp_path / "out" / "build.sh", tmp_path / "source"], check=True)
    (config,) = (tmp_path / "out").rglob("config.pbtxt")
    assert parsed(config).name == config.parent.name
    assert str(TINY) in (config.parent / "1" / "model.yaml").read_text()


def test_what_strays_too_far_is_not_written(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model")
    strict = EncoderBounds(cosine_mean=1.0, cosine_min=1.0, top_k_agreement=1.0)
    with pytest.raises(GateFailed, match="int8"):
        made(tmp_path / "model", tmp_path / "out", "triton-trt", bounds=strict, precision="int8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "task", "said"),
    [
        ("triton-vllm", "embedding", "targets for it are triton-cpu, triton-ort-trt"),
        ("triton-trt", "text-generation", "triton-vllm"),
        ("triton-trtllm", "rerank", "triton-cpu, triton-ort-trt"),
    ],
)
def test_a_target_that_serves_no_such_model_is_refused_with_what_does(
    tmp_path: Path, target: str, task: str, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        made(tmp_path, tmp_path / "out", target, task)


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InvalidArgument, match="not empty"):
        made(TINY, tmp_path / "out", "triton-vllm", "text-generation")
    assert files_of(tmp_path / "out") == {"mine"}


def test_a_marked_model_for_vllm_brings_its_logits_processor(tmp_path: Path) -> None:
    marked = dataclasses.replace(manifest(TINY, "text-generation"), marks=True)
    build(marked, "triton-vllm", tmp_path, "0" * 64, TEXTS)
    (model,) = tmp_path.glob("*/1")
    assert json.loads((model / "model.json").read_text())["logits_processors"] == ["moltbot_mark:MarkProcessor"]
    shared = Path(moltbot_models.__file__).parent / "engine" / "plain_mark.py"
    assert (model / "moltbot_mark" / "numbers.py").read_bytes() == shared.read_bytes()
    # The container has torch and vLLM; of ours it has this folder alone.
    foreign = set[str]()
    for file in (model / "moltbot_mark").glob("*.py"):
        nodes = [*ast.walk(ast.parse(file.read_text()))]
        foreign |= {one.module.split(".")[0] for one in nodes if isinstance(one, ast.ImportFrom) and one.module}
        foreign |= {name.name for one in nodes if isinstance(one, ast.Import) for name in one.names}
    assert foreign - sys.stdlib_module_names == {"torch", "vllm", "moltbot_mark"}
    script = (tmp_path / "serve.sh").read_text()
    assert subprocess.run(["sh", "-n", tmp_path / "serve.sh"], check=False).returncode == 0
    assert f'"$here"/{model.parent.name}/1/moltbot_mark' in script
    assert "VLLM_USE_V2_MODEL_RUNNER=0" in script


def test_serving_a_marked_model_needs_keys(tmp_path: Path) -> None:
    build(dataclasses.replace(manifest(TINY, "text-generation"), marks=True), "triton-vllm", tmp_path, "0" * 64, TEXTS)
    environment = {name: value for name, value in os.environ.items() if name != "MOLTBOT_MARK_KEYS"}
    done = subprocess.run(
        [tmp_path / "serve.sh"], check=False, capture_output=True, text=True, env=environment, timeout=20
    )
    assert done.returncode != 0
    assert "give the file of keys" in done.stderr
