"""What the in-process channel alone promises; what it shares with gRPC is in tests/contract/test_channels.py."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from moltbot.tool.v1 import tool_pb2, tool_pb2_grpc

from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import HandlerTable


class Slow(tool_pb2_grpc.ToolServiceServicer):
    async def GetTool(self, request, context):  # noqa: N802
        await asyncio.sleep(60)

    async def CallTool(self, request, context):  # noqa: N802
        return tool_pb2.CallToolResponse(content=asyncio.current_task().get_name())


@pytest.fixture
def stub():
    table = HandlerTable()
    tool_pb2_grpc.add_ToolServiceServicer_to_server(Slow(), table)  # type: ignore[arg-type]
    return tool_pb2_grpc.ToolServiceStub(InProcessChannel(table.handlers))  # type: ignore[arg-type]


async def test_a_unary_handler_runs_in_the_callers_task(stub):
    asyncio.current_task().set_name("mine")
    assert (await stub.CallTool(tool_pb2.CallToolRequest())).content == "mine"


async def test_cancelling_a_call_does_not_cancel_the_task_that_awaits_it(stub):
    call = stub.GetTool(tool_pb2.GetToolRequest())

    async def await_it() -> str:
        try:
            await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            return f"cancelled, and the task {'is' if task.cancelling() else 'is not'} being cancelled"
        return "answered"

    task = asyncio.create_task(await_it())
    await asyncio.sleep(0.01)
    assert call.cancel()
    assert await task == "cancelled, and the task is not being cancelled"
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert not call.cancel()


async def test_a_call_that_ended_says_so_once(stub):
    ended = []
    call = stub.CallTool(tool_pb2.CallToolRequest())
    call.add_done_callback(ended.append)
    assert not call.done()
    await call
    assert call.done()
    call.add_done_callback(ended.append)
    assert ended == [call, call]


async def test_a_deadline_that_has_passed_leaves_no_time_to_the_handler(stub):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetTool(tool_pb2.GetToolRequest(), timeout=-1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
