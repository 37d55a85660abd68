"""Answers that wait to be registered: gathered, tried again, bounded, and none costs another."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from moltbot.watermark.v1 import watermark_pb2 as pb

from moltbot_gateway import outputs as module
from moltbot_gateway.outputs import Outputs
from moltbot_mesh.errors import InvalidArgument, Unavailable


class Watermark:
    """Takes batches, or fails as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failures: list[Exception] = []
        self.bad = ""

    async def BatchRegisterOutputs(self, request: pb.BatchRegisterOutputsRequest, timeout: float):  # noqa: N802
        assert timeout > 0
        ids = [one.request_id for one in request.requests]
        if self.failures:
            raise self.failures.pop(0)
        if self.bad in ids:
            raise InvalidArgument("requests: one is not valid")
        self.batches.append(ids)
        return pb.BatchRegisterOutputsResponse()

    @property
    def registered(self) -> list[str]:
        return [request_id for batch in self.batches for request_id in batch]


@pytest.fixture
def watermark(monkeypatch: pytest.MonkeyPatch) -> Watermark:
    monkeypatch.setattr(module, "_GATHER_S", 0.01)
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    return Watermark()


def _output(request_id: str, text: str = "said") -> pb.RegisterOutputRequest:
    return pb.RegisterOutputRequest(tenant="acme", request_id=request_id, text=text)


async def test_answers_that_come_together_go_together(watermark):
    outputs = Outputs(watermark)
    async with outputs.registering():
        for n in range(70):
            outputs.put(_output(f"r{n}"))
    assert [len(batch) for batch in watermark.batches] == [64, 6]
    assert watermark.registered == [f"r{n}" for n in range(70)]


async def test_an_outage_is_waited_for_and_loses_none(watermark):
    watermark.failures = [Unavailable("gone"), Unavailable("still gone")]
    outputs = Outputs(watermark)
    async with outputs.registering():
        outputs.put(_output("a"))
        outputs.put(_output("b"))
    assert watermark.registered == ["a", "b"]
    assert outputs.dropped == 0


async def test_one_that_is_refused_costs_no_other(watermark):
    watermark.bad = "b"
    outputs = Outputs(watermark)
    async with outputs.registering():
        for request_id in "abc":
            outputs.put(_output(request_id))
    assert watermark.registered == ["a", "c"]
    assert outputs.dropped == 1


async def test_a_defect_does_not_end_the_registering(watermark):
    watermark.failures = [RuntimeError("a defect")]
    outputs = Outputs(watermark)
    async with outputs.registering():
        outputs.put(_output("lost"))
        while not outputs.dropped:
            await asyncio.sleep(0.005)
        outputs.put(_output("next"))
    assert watermark.registered == ["next"]


async def test_what_waits_is_bounded_by_bytes_and_count(watermark, monkeypatch):
    monkeypatch.setattr(module, "_WAITING", 3)
    monkeypatch.setattr(module, "_WAITING_BYTES", 10)
    outputs = Outputs(watermark)
    outputs.put(_output("larger than all alone", "x" * 100))  # it would never go otherwise
    outputs.put(_output("too much", "y"))
    assert outputs.dropped == 1
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0), outputs.registering():
            while watermark.registered != ["larger than all alone"]:
                await asyncio.sleep(0.005)
            for n in range(4):
                outputs.put(_output(f"r{n}", "z"))
    assert outputs.dropped == 2
    assert watermark.registered[1:] == ["r0", "r1", "r2"]


async def test_a_message_stays_small(watermark, monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER_BYTES", 10)
    outputs = Outputs(watermark)
    async with outputs.registering():
        for n in range(3):
            outputs.put(_output(f"r{n}", "x" * 6))
    assert watermark.batches == [["r0"], ["r1"], ["r2"]]
