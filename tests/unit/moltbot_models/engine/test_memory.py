"""A model that cannot fit is refused with the numbers; the cache takes its share of what is there."""

from __future__ import annotations

import dataclasses

import pytest

from moltbot_models.engine import EngineConfig, EngineError, TextEngine
from moltbot_models.engine import source as source_module
from moltbot_models.engine.memory import available_bytes, cache_blocks, check_fits

MIB = 1 << 20


def machine(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:  2048 kB\n", **files):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(meminfo)
    for name, content in files.items():
        file = tmp_path / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return available_bytes(tmp_path / "proc", tmp_path / "cgroup")


def test_what_the_machine_has_left_counts(tmp_path):
    assert machine(tmp_path) == 2 * MIB


def test_the_control_groups_limit_counts_where_it_is_less(tmp_path):
    assert machine(tmp_path, memory_dot_max=f"{3 * MIB}\n", memory_dot_current=f"{2 * MIB}\n") == MIB


def test_a_control_group_without_a_limit_counts_nothing(tmp_path):
    assert machine(tmp_path, memory_dot_max="max\n", memory_dot_current="7\n") == 2 * MIB


def test_the_first_version_of_control_groups_is_read_too(tmp_path):
    files = {"memory__memory_dot_limit_in_bytes": "100", "memory__memory_dot_usage_in_bytes": "140"}
    assert machine(tmp_path, **files) == 0


def test_where_nobody_says_nothing_is_refused(tmp_path):
    assert machine(tmp_path, meminfo="") is None
    check_fits(10**12, EngineConfig(), None)
    assert cache_blocks(1000, 0, None) == 8192


def test_weights_and_cache_must_fit_together():
    config = EngineConfig(weights="bf16", kv_cache_bytes=10 * MIB)
    check_fits(45 * MIB, config, 100 * MIB)
    with pytest.raises(EngineError, match=r"92 MiB.*10 MiB.*100 MiB.*u8") as refused:
        check_fits(46 * MIB, config, 100 * MIB)
    assert refused.value.reason == "MODEL_TOO_LARGE"


def test_4_bits_count_as_such_and_words_in_8():
    config = EngineConfig(weights="u4", kv_cache_bytes=10 * MIB)
    check_fits(100 * MIB, config, 77 * MIB, words=20 * MIB)  # 80 · 0.578 + 20 + 10
    with pytest.raises(EngineError, match=r"67 MiB.*give a smaller kv_cache_mib, a smaller model"):
        check_fits(100 * MIB, config, 77 * MIB, words=22 * MIB)
    with pytest.raises(EngineError, match='or weights="u4"'):
        check_fits(100 * MIB, dataclasses.replace(config, weights="u8"), 77 * MIB, words=20 * MIB)


@pytest.mark.parametrize(("asked", "available", "blocks"), [(5000, 0, 5), (0, 40_000, 10), (0, 10**12, 8192)])
def test_the_cache_is_what_was_asked_for_or_a_quarter_of_what_is_left(asked, available, blocks):
    assert cache_blocks(1000, asked, available) == blocks


@pytest.mark.parametrize(
    ("asked", "available", "reason"), [(1999, 10**9, "INVALID_ARGUMENT"), (0, 7999, "MODEL_TOO_LARGE")]
)
def test_a_cache_of_less_than_two_blocks_is_refused(asked, available, reason):
    with pytest.raises(EngineError) as refused:
        cache_blocks(1000, asked, available)
    assert refused.value.reason == reason


def test_an_engine_says_so_before_it_builds_anything(llama_directory, exact, monkeypatch):
    monkeypatch.setattr(source_module, "available_bytes", lambda: 1000)
    monkeypatch.setattr(source_module, "build_graph", None)
    with pytest.raises(EngineError, match="MiB are available"):
        TextEngine.load(llama_directory, exact)


def test_an_engine_sizes_its_cache_by_itself(llama_directory, exact):
    engine = TextEngine.load(llama_directory, dataclasses.replace(exact, kv_cache_bytes=0))
    try:
        assert engine.stats().blocks_total == 8192
    finally:
        engine.close()
