"""Figures are what was measured, pictures hold every level, and a search takes what is better and not what is noise."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from moltbot_mesh.errors import Unavailable
from moltbot_models.generation import Delta, Embeddings, Scores, Usage
from moltbot_models.tuning.load import Figures, Workload, measure
from moltbot_models.tuning.process_tree import tree_cpu_s, tree_rss_mib
from moltbot_models.tuning.search import search, space, verdict
from moltbot_models.tuning.show import svg_plot, table, terminal_plot

LEVELS = [
    Figures(1, 50, 0, 100.5, 10.0, 12.0, 3.0, 1.0, 2.0, 9.5, 180),
    Figures(32, 400, 2, 640.0, 40.0, 90.0, 20.0, 4.0, 9.0, 3.25, 200),
]
TEXTS = ("one text", "another text", "a third one")


class Slow:
    """Answers after a time of its own choosing."""

    def __init__(self, fails: int = 0) -> None:
        self.fails, self.asked, self.at_once, self.most = fails, [], 0, 0

    async def _wait(self, what):
        self.asked.append(what)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        if self.fails:
            self.fails -= 1
            raise Unavailable("busy")

    async def embed(self, request):
        await self._wait(request.inputs)
        return Embeddings(((1.0,),), Usage(3))

    async def score(self, request):
        await self._wait(request.query)
        return Scores(((1.0,),), Usage(3))

    async def generate(self, request, *, stream=True):
        await self._wait(request.prompt)
        yield (Delta("a"),)
        await asyncio.sleep(0.005)
        yield (Delta("b", finish_reason="length", usage=Usage(9, request.sampling.max_tokens)),)


SECONDS = 0.5


def measured(upstream, task, clients=4, **changes):
    work = Workload(task, "m", TEXTS, **changes)
    return asyncio.run(measure(upstream, work, clients, SECONDS, iter(itertools.count(step=0.5)).__next__, lambda: 77))


@pytest.mark.parametrize("task", ["embedding", "rerank", "classification"])
def test_texts_are_counted_and_clients_ask_at_once(task):
    upstream = Slow()
    found = measured(upstream, task)
    assert found.answers == len(upstream.asked) >= 8
    assert upstream.most == 4
    assert found.p50_ms >= 10
    assert found.first_p50_ms == 0
    assert found.cpu_ms_per_unit == pytest.approx(500 / found.answers)
    assert found.rss_mib == 77
    assert (upstream.asked[0] is not None) is (task != "classification")


def test_a_streams_tokens_first_token_and_gaps_are_told():
    upstream = Slow()
    began_s = time.perf_counter()
    found = measured(upstream, "text-generation", tokens_in=16, tokens_out=5)
    took_s = time.perf_counter() - began_s
    assert 5 * found.answers / took_s <= found.units_per_s <= 5 * found.answers / SECONDS
    assert found.first_p50_ms >= 10
    assert 5 <= found.gap_p50_ms <= found.p50_ms
    assert len(set(upstream.asked)) == len(upstream.asked), "a prompt came twice: a prefix cache would help"
    assert all(len(prompt) <= 64 for prompt in upstream.asked)


def test_failures_are_counted_and_nothing_else_is_an_error():
    assert measured(Slow(fails=3), "embedding").failures == 3
    with pytest.raises(Unavailable, match="busy"):
        measured(Slow(fails=10_000), "embedding")


def test_a_table_has_a_line_a_level():
    lines = table(LEVELS, "tokens").splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["clients", "tokens/s"]
    assert lines[2].split() == ["32", "640.0", "40.0", "90.0", "20.0", "4.0", "9.0", "3.25", "200", "2"]
    assert "first" not in table([Figures(1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1)], "texts")


def test_pictures_hold_every_level():
    tree = ET.fromstring(svg_plot(LEVELS, "tokens", "a <model> & more"))
    kinds = [node.tag.rpartition("}")[2] for node in tree.iter()]
    assert kinds.count("circle") == len(LEVELS)
    assert "a <model> & more" in "".join(tree.itertext())
    text = terminal_plot(LEVELS, "tokens")
    assert "●1" in text
    assert "●32" in text
    assert "p99 90 ms" in text


@pytest.mark.parametrize(
    ("turns", "taken"),
    [
        ([(1.0, 1.2), (1.0, 1.25), (1.0, 1.22)], True),
        ([(1.0, 1.02), (1.0, 1.02), (1.0, 1.02)], False),
        ([(1.0, 1.5), (1.0, 1.04), (1.0, 0.8)], False),
        ([(1.0, 0.5), (1.0, 0.6), (1.0, 0.5)], False),
        ([(0.0, 1.0), (0.0, 1.0), (0.0, 1.0)], False),
    ],
)
def test_a_gain_must_be_more_than_noise(turns, taken):
    assert verdict(turns)[1] is taken


def surface(options):
    """Best at b=4 and c=y; a=2 is best but refused."""
    return (
        {"1": 1.0, "2": 9.0}[options["a"]]
        * (2 - 0.2 * abs(int(options["b"]) - 4))
        * (1.3 if options["c"] == "y" else 1)
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_search_finds_what_is_best_and_allowed_under_noise(seed):
    draw, told = random.Random(seed), []

    async def compare(first, second):
        return [(surface(first) * draw.gauss(1, 0.01), surface(second) * draw.gauss(1, 0.01)) for _ in range(3)]

    async def allowed(options):
        return "too far" if options["a"] == "2" else ""

    start = {"a": "1", "b": "1", "c": "x"}
    values = {"a": ("1", "2"), "b": ("1", "2", "4", "8"), "c": ("x", "y")}
    found = asyncio.run(search(start, values, compare, allowed, lambda: True, told.append))
    assert found.options == {"a": "1", "b": "4", "c": "y"}
    assert found.complete
    assert list(found.trials) == told
    assert all(not trial.taken for trial in found.trials if trial.option == "a")
    assert start == {"a": "1", "b": "1", "c": "x"}


@pytest.mark.parametrize(("chunk", "then"), [("56", "120"), ("0", "0"), ("96", "96")])
def test_another_precision_takes_its_own_chunk_unless_one_was_set(chunk, then):
    tried = []

    async def compare(_, candidate):
        tried.append(candidate)
        return [(1.0, 2.0)] * 3

    async def allowed(_):
        return ""

    start = {"compute": "f32", "chunk_tokens": chunk}
    asyncio.run(search(start, {"compute": ("f32", "bf16")}, compare, allowed, lambda: not tried, lambda _: None))
    assert tried == [{"compute": "bf16", "chunk_tokens": then}]


def test_a_search_ends_when_its_time_is_over():
    async def compare(first, second):
        return [(1.0, 2.0)] * 3

    async def allowed(options):
        return ""

    left = iter([True, False])
    found = asyncio.run(
        search({"a": "1"}, {"a": ("1", "2", "3")}, compare, allowed, lambda: next(left), lambda _: None)
    )
    assert not found.complete
    assert found.options == {"a": "2"}


@pytest.mark.parametrize("task", ["text-generation", "embedding", "rerank", "classification"])
def test_every_value_of_the_space_is_one_that_exists(task):
    from moltbot_models.triton.repository import checked_options  # noqa: PLC0415 - beside its use

    for option, values in space(task, 8).items():
        for value in values:
            checked_options("m", task, {option: value})


def test_a_process_that_has_ended_has_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert tree_rss_mib(os.getpid()) > 10
    assert tree_cpu_s(os.getpid()) > 0
    child.wait()
    assert (tree_rss_mib(child.pid), tree_cpu_s(child.pid)) == (0, 0.0)


@pytest.mark.parametrize(("quickest", "other"), [("bf16", "f32"), ("f32", "bf16")])
def test_beside_auto_the_arithmetic_is_tried_that_it_does_not_take(
    monkeypatch: pytest.MonkeyPatch, quickest: str, other: str
) -> None:
    monkeypatch.setattr("moltbot_models.tuning.search.quickest_float", lambda: quickest)
    assert space("embedding", 2)["precision"] == ("auto", other)
