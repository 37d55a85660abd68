"""What a server does with calls of one request whose message never came, or is none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from moltbot.tool.v1 import tool_pb2, tool_pb2_grpc

from moltbot_mesh.audit.calls import CallRecords
from moltbot_mesh.identity import MeshIdentity
from moltbot_mesh.interceptors import Surroundings, wrapped_handlers
from moltbot_mesh.module import Access, Registration
from moltbot_mesh.server import MeshServer
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings

LIST = "/moltbot.tool.v1.ToolService/ListTools"
HEALTH = "/grpc.health.v1.Health/Check"
TOO_LARGE = 25 << 20


class Tools(tool_pb2_grpc.ToolServiceServicer):
    def __init__(self) -> None:
        self.called: list[tool_pb2.ListToolsRequest] = []

    async def ListTools(self, request, context):  # noqa: N802
        self.called.append(request)
        return tool_pb2.ListToolsResponse()


@pytest.fixture
async def served(tmp_path):
    """A server of tools that anybody may list, what was called there and what was recorded, and a channel to it."""
    tools, events = Tools(), []
    calls = CallRecords("one")
    calls.producer = SimpleNamespace(emit_now=events.extend, admit=lambda: None)  # type: ignore[assignment]
    around = Surroundings(
        Telemetry("tool", Metrics(), TelemetrySettings()), MeshIdentity(bytes(32), "tool"), None, calls
    )
    add = tool_pb2_grpc.add_ToolServiceServicer_to_server
    server = MeshServer(wrapped_handlers(Registration(add, tools, {"ListTools": Access.PUBLIC}), around))
    target = f"unix:{tmp_path}/s"
    server.listen(target)
    options = [("grpc.max_send_message_length", -1)]
    async with server.serving(0.2), grpc.aio.insecure_channel(target, options=options) as channel:
        yield SimpleNamespace(tools=tools, events=events, channel=channel)


async def ended(call) -> grpc.StatusCode:
    async with asyncio.timeout(10):
        return await call.code()


async def test_a_call_that_ends_without_a_message_is_refused_and_runs_nothing(served):
    call = served.channel.stream_unary(LIST)()
    await call.done_writing()
    assert await ended(call) is grpc.StatusCode.INVALID_ARGUMENT
    assert "message" in await call.details()
    assert served.tools.called == []
    assert [(event.action, event.reason) for event in served.events] == [(LIST, "MALFORMED_BODY")]


async def test_an_empty_message_is_a_message(served):
    await served.channel.unary_unary(LIST)(b"")
    assert served.tools.called == [tool_pb2.ListToolsRequest()]


async def test_a_call_whose_message_is_too_large_runs_nothing(served):
    call = served.channel.unary_unary(LIST)(bytes(TOO_LARGE))
    assert await ended(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    await asyncio.sleep(0.3)
    assert served.tools.called == []
    assert served.events == []


async def test_a_call_that_is_left_before_its_message_came_runs_nothing(served):
    call = served.channel.stream_unary(LIST)()
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.sleep(0.3)
    assert served.tools.called == []
    assert served.events == []


async def test_a_message_that_cannot_be_decoded_is_the_clients_mistake(served):
    call = served.channel.unary_unary(LIST)(b"\xff\xff\xff")
    assert await ended(call) is grpc.StatusCode.INVALID_ARGUMENT
    assert "DecodeError" not in await call.details()
    assert served.tools.called == []
    assert [(event.action, event.reason) for event in served.events] == [(LIST, "MALFORMED_BODY")]


@pytest.mark.parametrize("message", [None, b"\xff\xff\xff"])
async def test_health_is_told_whatever_the_message_is(served, message):
    call = served.channel.stream_unary(HEALTH)()
    if message is not None:
        await call.write(message)
    await call.done_writing()
    assert await ended(call) in {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}


async def test_a_refusal_before_a_public_method_begins_is_recorded_and_what_it_does_is_its_own_to_record(served):
    call = served.channel.unary_unary(LIST, tool_pb2.ListToolsRequest.SerializeToString)
    with pytest.raises(grpc.aio.AioRpcError, match="page_size"):
        await call(tool_pb2.ListToolsRequest(page_size=100_000))
    assert [(event.reason, event.tenant) for event in served.events] == [("INVALID_ARGUMENT", "")]
    await call(tool_pb2.ListToolsRequest())
    assert len(served.events) == 1
