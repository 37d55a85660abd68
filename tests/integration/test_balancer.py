"""Calls over several real servers: spread, passed over the dead, waiting for the late."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import status_pb2

from moltbot_mesh.balancer import BalancedChannel
from moltbot_mesh.errors_wire import STATUS_DETAILS
from moltbot_mesh.outlier import OutlierPolicy
from moltbot_mesh.registry import InProcessRegistry, Instance
from moltbot_testkit.ports import free_port
from moltbot_testkit.process import ChildProcess, tcp_answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_SERVER = """
import asyncio, signal, sys
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

async def main(port):
    name = port.encode()
    held, released = 0, asyncio.Event()
    async def hold(request, context):
        nonlocal held
        held += 1
        await released.wait()
        return name
    async def count_held(request, context):
        return b"%d" % held
    async def release(request, context):
        released.set()
        return name
    async def say(request, context):
        if request.startswith(b"sleep"):
            await asyncio.sleep(float(request.split()[1]))
        return name
    async def stream(request, context):
        for _ in range(int(request)):
            yield name
            await asyncio.sleep(0.01)
    async def collect(requests, context):
        return name + b" " + b",".join([request async for request in requests])
    async def chat(requests, context):
        async for request in requests:
            yield name + b" " + request
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Hold": grpc.unary_unary_rpc_method_handler(hold),
        "Held": grpc.unary_unary_rpc_method_handler(count_held),
        "Release": grpc.unary_unary_rpc_method_handler(release),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }),))
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port("127.0.0.1:" + port)
    async def not_serving():
        await checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: asyncio.ensure_future(not_serving()))
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    await ended.wait()
    await server.stop(5)

asyncio.run(main(sys.argv[1]))
"""


class Echo:
    """A server process whose answers say its port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.name = str(self.port).encode()
        self.instance = Instance("echo", f"echo-{self.port}", f"127.0.0.1:{self.port}")
        self.process = ChildProcess(
            [sys.executable, "-c", _SERVER, str(self.port)],
            log=directory / f"echo-{self.port}.log",
            probe=lambda: tcp_answers(self.port),
        )


@pytest.fixture
async def echoes(tmp_path: Path) -> AsyncIterator[tuple[Echo, Echo]]:
    pair = Echo(tmp_path), Echo(tmp_path)
    try:
        await asyncio.gather(*(asyncio.to_thread(echo.process.start) for echo in pair))
        yield pair
    finally:
        for echo in pair:
            echo.process.kill()


@pytest.fixture
async def registry() -> InProcessRegistry:
    return InProcessRegistry()


@contextlib.asynccontextmanager
async def balanced(registry: InProcessRegistry, *echoes: Echo, **options: object) -> AsyncIterator[BalancedChannel]:
    async with contextlib.AsyncExitStack() as stack:
        for echo in echoes:
            await stack.enter_async_context(registry.register(echo.instance))
        channel = await stack.enter_async_context(BalancedChannel(registry, "echo", **options))  # type: ignore[arg-type]
        if echoes:
            async with asyncio.timeout(30):
                await channel.channel_ready()
                while len(channel.instances()) < len(echoes) or not all(
                    peer.is_connected for peer in channel._peers.values()
                ):
                    await asyncio.sleep(0.01)
        yield channel


async def test_calls_of_all_kinds_are_spread_over_the_instances(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    names = {echo.name for echo in echoes}
    async with balanced(registry, *echoes) as channel:
        say, stream = channel.unary_unary("/test.Echo/Say"), channel.unary_stream("/test.Echo/Stream")
        collect, chat = channel.stream_unary("/test.Echo/Collect"), channel.stream_stream("/test.Echo/Chat")
        assert {await say(b"", timeout=5) for _ in range(40)} == names
        streamed = [[answer async for answer in stream(b"2", timeout=5)] for _ in range(20)]
        assert {answers[0] for answers in streamed} == names
        assert all(answers[0] == answers[1] for answers in streamed)
        assert (await collect(iter([b"a", b"b"]), timeout=5)).split()[1] == b"a,b"
        call = chat(timeout=5)
        await call.write(b"hello")
        assert (await call.read()).split()[1] == b"hello"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_calls_go_where_fewer_are_outstanding(registry: InProcessRegistry, echoes: tuple[Echo, Echo]) -> None:
    async with balanced(registry, *echoes) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        calls = [say(b"sleep 0.3", timeout=5) for _ in range(20)]
        counts = collections.Counter([await call for call in calls])
        assert sorted(counts.values()) == [10, 10]


async def test_no_call_fails_after_one_of_two_was_killed(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    dead, alive = echoes
    async with balanced(registry, *echoes) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert {await say(b"", timeout=5) for _ in range(40)} == {dead.name, alive.name}
        (connection,) = (peer.channel for peer in channel._peers.values() if peer.instance == dead.instance)
        dead.process.kill()
        async with asyncio.timeout(10):  # until gRPC has seen that the connection ended
            while connection.get_state() is grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.005)
        assert {await say(b"", timeout=5) for _ in range(100)} == {alive.name}


async def test_one_that_was_killed_takes_calls_again_once_it_is_back(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    policy = OutlierPolicy(consecutive_failures=1, base_ejection_s=0.2)
    async with balanced(registry, *echoes, policy=policy, health_interval_s=0.1) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        echoes[0].process.kill()
        async with asyncio.timeout(60):
            while channel.ejected() != {echoes[0].instance}:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(echoes[0].process.start)
            while await say(b"", timeout=5) != echoes[0].name:
                await asyncio.sleep(0.02)
            while channel.ejected():
                await asyncio.sleep(0.02)


async def test_one_that_was_killed_is_failing_between_ejections_until_it_answers(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    policy = OutlierPolicy(consecutive_failures=1, base_ejection_s=0.1)
    dead = echoes[0]
    async with balanced(registry, dead, policy=policy, health_interval_s=3600) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert await say(b"", timeout=5) == dead.name
        assert not channel.failing()
        dead.process.kill()
        async with asyncio.timeout(60):
            while not channel.ejected():
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await say(b"", timeout=1)
            while channel.ejected():  # and nobody tries again
                await asyncio.sleep(0.02)
            assert channel.failing() == {dead.instance}
            await asyncio.to_thread(dead.process.start)
            while channel.failing():
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await say(b"", timeout=1)


async def test_one_that_says_it_does_not_serve_is_ejected(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    policy = OutlierPolicy(consecutive_failures=2, base_ejection_s=30)
    async with balanced(registry, *echoes, policy=policy, health_interval_s=0.05) as channel:
        echoes[0].process.signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while channel.ejected() != {echoes[0].instance}:
                await asyncio.sleep(0.02)
        say = channel.unary_unary("/test.Echo/Say")
        assert {await say(b"", timeout=5) for _ in range(40)} == {echoes[1].name}
        echoes[1].process.signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while len(channel.ejected()) < 2:
                await asyncio.sleep(0.02)
        assert {await say(b"", timeout=5) for _ in range(40)} == {echo.name for echo in echoes}


async def test_a_call_that_was_sent_is_not_sent_again(registry: InProcessRegistry, echoes: tuple[Echo, Echo]) -> None:
    async with balanced(registry, *echoes) as channel, contextlib.AsyncExitStack() as stack:
        direct = [await stack.enter_async_context(grpc.aio.insecure_channel(echo.instance.target)) for echo in echoes]
        hold = channel.unary_unary("/test.Echo/Hold")
        calls = [hold(b"", timeout=60) for _ in range(10)]
        async with asyncio.timeout(30):
            for one in direct:
                while await one.unary_unary("/test.Echo/Held")(b"", wait_for_ready=True) != b"5":
                    await asyncio.sleep(0.01)
        echoes[0].process.kill()
        await direct[1].unary_unary("/test.Echo/Release")(b"")
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result for result in results if isinstance(result, bytes)] == [echoes[1].name] * 5
        errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert [error.code() for error in errors] == [grpc.StatusCode.UNAVAILABLE] * 5


async def test_a_server_that_leaves_the_registry_before_it_stops_costs_no_call(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    leaving, staying = echoes
    async with balanced(registry, staying) as channel, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(registry.register(leaving.instance))
        say = channel.unary_unary("/test.Echo/Say")
        answers: collections.Counter[bytes] = collections.Counter()

        async def keep_calling() -> None:
            while leaving.process.is_running:
                answers.update(await asyncio.gather(*(say(b"sleep 0.01", timeout=5) for _ in range(8))))

        callers = asyncio.create_task(keep_calling())
        async with asyncio.timeout(10):
            while not answers[leaving.name]:
                await asyncio.sleep(0.01)
            await stack.aclose()
            while leaving.instance in channel.instances():
                await asyncio.sleep(0.01)
        await asyncio.to_thread(leaving.process.stop)
        await callers
        assert set(answers) == {leaving.name, staying.name}


async def test_a_call_waits_for_the_first_instance(registry: InProcessRegistry, echoes: tuple[Echo, Echo]) -> None:
    async with balanced(registry) as channel:
        call = channel.unary_unary("/test.Echo/Say")(b"", timeout=5)
        stream = channel.unary_stream("/test.Echo/Stream")(b"3")
        await asyncio.sleep(0.1)
        assert not call.done()
        async with registry.register(echoes[0].instance):
            assert await call == echoes[0].name
            assert [answer async for answer in stream] == [echoes[0].name] * 3
            assert call.done()
            assert await call.code() is grpc.StatusCode.OK


async def test_without_any_instance_a_call_fails_at_its_deadline_and_names_the_service(
    registry: InProcessRegistry,
) -> None:
    async with balanced(registry) as channel:
        began_s = time.monotonic()
        call = channel.unary_unary("/test.Echo/Say")(b"", timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError, match="echo") as caught:
            await call
        assert 0.15 < time.monotonic() - began_s < 5
        assert caught.value.code() is await call.code() is grpc.StatusCode.UNAVAILABLE
        assert STATUS_DETAILS not in dict(caught.value.trailing_metadata() or ())


async def test_where_all_refuse_a_call_fails_at_once(registry: InProcessRegistry) -> None:
    instance = Instance("echo", "gone", f"127.0.0.1:{free_port()}")
    async with registry.register(instance), BalancedChannel(registry, "echo") as channel:
        began_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match=instance.target) as caught:
            await channel.unary_unary("/test.Echo/Say")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began_s < 2


async def test_a_call_that_waits_can_be_cancelled(registry: InProcessRegistry) -> None:
    async with balanced(registry) as channel:
        call = channel.unary_unary("/test.Echo/Say")(b"", timeout=5)
        ended: list[object] = []
        call.add_done_callback(ended.append)
        await asyncio.sleep(0.05)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert ended == [call]


async def test_an_instance_that_leaves_finishes_its_streams_and_gets_no_new_calls(
    registry: InProcessRegistry, echoes: tuple[Echo, Echo]
) -> None:
    leaving, staying = echoes
    async with registry.register(staying.instance), contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(registry.register(leaving.instance))
        async with BalancedChannel(registry, "echo", health_interval_s=0.05) as channel:
            await channel.channel_ready()
            stream = channel.unary_stream("/test.Echo/Stream")
            running = stream(b"30", timeout=5)
            while await running.read() != leaving.name:
                running.cancel()
                running = stream(b"30", timeout=5)
            await stack.aclose()
            async with asyncio.timeout(5):
                while channel.instances() != {staying.instance}:
                    await asyncio.sleep(0.01)
            say = channel.unary_unary("/test.Echo/Say")
            assert {await say(b"", timeout=5) for _ in range(30)} == {staying.name}
            assert [await running.read() for _ in range(29)] == [leaving.name] * 29
            assert await running.read() is grpc.aio.EOF


async def test_a_service_that_says_it_is_unavailable_is_not_ejected(registry: InProcessRegistry) -> None:
    async def refuse(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        details = ((STATUS_DETAILS, status_pb2.Status(code=14, message="no model").SerializeToString()),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no model", trailing_metadata=details)

    server = grpc.aio.server()
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    instance = Instance("echo", "a", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    try:
        async with registry.register(instance), BalancedChannel(registry, "echo") as channel:
            for _ in range(10):
                with pytest.raises(grpc.aio.AioRpcError, match="no model"):
                    await channel.unary_unary("/test.Echo/Say")(b"", timeout=5)
            assert not channel.ejected()
    finally:
        await server.stop(0)
