"""One suite for both ways to reach a service: within the process, and over gRPC on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc
from moltbot.context.v1 import context_pb2, context_pb2_grpc
from moltbot.router.v1 import router_pb2, router_pb2_grpc
from moltbot.tool.v1 import tool_pb2, tool_pb2_grpc

from moltbot_mesh.api_keys import ApiKeys
from moltbot_mesh.call import Call, Principal, TraceContext, current_call, enter_call, leave_call
from moltbot_mesh.channel import MeshChannel, open_channel
from moltbot_mesh.errors import (
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
)
from moltbot_mesh.errors_wire import STATUS_DETAILS
from moltbot_mesh.identity import MeshIdentity
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import Surroundings, wrapped_handlers
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_mesh.module import Access, Registration
from moltbot_mesh.server import MeshServer
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = bytes(range(32))
PATIENCE_S = 5.0


class Tools(tool_pb2_grpc.ToolServiceServicer):
    """One request, one answer: what `behave` says."""

    def __init__(self) -> None:
        self.behave: Any = None

    async def CallTool(self, request, context):  # noqa: N802
        return await self.behave(request, context)

    async def GetTool(self, request, context):  # noqa: N802
        return tool_pb2.GetToolResponse(tool=tool_pb2.Tool(name=request.name))

    async def ListTools(self, request, context):  # noqa: N802
        call = current_call()
        assert call is not None
        return tool_pb2.ListToolsResponse(next_page_token=f"{call.principal.kind}:{call.principal.tenant}")


class Router(router_pb2_grpc.RouterServiceServicer):
    """A stream one way or the other."""

    def __init__(self) -> None:
        self.watch: Any = None
        self.report: Any = None

    async def WatchTable(self, request, context):  # noqa: N802
        async for answer in self.watch(request, context):
            yield answer

    async def ReportOutcomes(self, request_iterator, context):  # noqa: N802
        return await self.report(request_iterator, context)


class Audit(audit_pb2_grpc.AuditServiceServicer):
    """Streams both ways."""

    def __init__(self) -> None:
        self.append: Any = None

    async def AppendStream(self, request_iterator, context):  # noqa: N802
        async for answer in self.append(request_iterator, context):
            yield answer


@dataclass
class Mesh:
    """Servicers that behave as a test says, their stubs, and the bare channel underneath."""

    bare: Any
    channel: Any
    tools: Tools
    router: Router
    audit: Audit
    keys: ApiKeys
    metrics: Metrics
    tool_stub: Any = field(init=False)
    router_stub: Any = field(init=False)
    audit_stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.tool_stub = tool_pb2_grpc.ToolServiceStub(self.channel)
        self.router_stub = router_pb2_grpc.RouterServiceStub(self.channel)
        self.audit_stub = audit_pb2_grpc.AuditServiceStub(self.channel)

    async def connect(self) -> None:
        """Have a connection stand, so that no deadline of a test is spent on it."""

        async def at_once(*_):
            return tool_pb2.CallToolResponse()

        self.tools.behave = at_once
        await self.call()

    async def call(self, name: str = "x", **rest: Any) -> Any:
        return await self.tool_stub.CallTool(tool_pb2.CallToolRequest(name=name), **rest)


@pytest.fixture(params=["in process", "grpc"])
async def mesh(request, tmp_path) -> AsyncIterator[Mesh]:
    metrics = Metrics()
    keys = ApiKeys(MemoryKeyValueStore())
    identity = MeshIdentity(KEY, "tool")
    around = Surroundings(Telemetry("tool", metrics, TelemetrySettings()), identity, keys)
    tools, router, audit = Tools(), Router(), Audit()
    handlers = {}
    for add, servicer, access in (
        (
            tool_pb2_grpc.add_ToolServiceServicer_to_server,
            tools,
            {"ListTools": Access.TENANT, "GetTool": Access.OPERATOR},
        ),
        (router_pb2_grpc.add_RouterServiceServicer_to_server, router, {}),
        (audit_pb2_grpc.add_AuditServiceServicer_to_server, audit, {}),
    ):
        handlers |= wrapped_handlers(Registration(add, servicer, access), around)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(keys.watching())
        if request.param == "grpc":
            target = f"unix:{tmp_path}/mesh.sock"
            server = MeshServer(handlers)
            server.listen(target)
            await stack.enter_async_context(server.serving(0.2))
            bare: Any = open_channel(target)
            stack.push_async_callback(bare.close)
        else:
            bare = InProcessChannel(handlers)
        channel = MeshChannel(bare, MeshIdentity(KEY, "gateway"), "tool")
        yield Mesh(bare, channel, tools, router, audit, keys, metrics)


@contextlib.contextmanager
def serving(call: Call):
    before = current_call()
    enter_call(call)
    try:
        yield
    finally:
        leave_call(before)


class TestOneRequestOneAnswer:
    async def test_the_answer_comes_back(self, mesh):
        async def behave(request, _):
            return tool_pb2.CallToolResponse(content=request.name)

        mesh.tools.behave = behave
        assert (await mesh.call("calculator")).content == "calculator"

    async def test_a_deadline_ends_the_handler(self, mesh):
        ended = asyncio.Event()

        async def behave(*_):
            try:
                await asyncio.sleep(PATIENCE_S)
            finally:
                ended.set()

        await mesh.connect()
        mesh.tools.behave = behave
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await mesh.call(timeout=1.0)
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        assert time.monotonic() - started < PATIENCE_S

    async def test_the_deadline_of_the_call_being_served_bounds_the_calls_it_makes(self, mesh):
        async def behave(*_):
            call = current_call()
            assert call is not None
            return tool_pb2.CallToolResponse(duration_us=int(call.remaining_s(100.0) * 1e6))

        mesh.tools.behave = behave
        with serving(Call("/x", deadline_monotonic_s=time.monotonic() + 2.0)):
            answer = await mesh.call(timeout=60)
        assert 0 < answer.duration_us <= 2_100_000  # gRPC rounds a deadline up on the wire

    async def test_cancelling_the_caller_cancels_the_handler(self, mesh):
        began, cancelled = asyncio.Event(), asyncio.Event()

        async def behave(*_):
            began.set()
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        mesh.tools.behave = behave
        task = asyncio.create_task(mesh.call())
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)

    async def test_tenant_trace_and_request_id_travel_and_the_caller_is_known(self, mesh):
        seen: list[Call | None] = []

        async def behave(*_):
            seen.append(current_call())
            return tool_pb2.CallToolResponse()

        mesh.tools.behave = behave
        trace = TraceContext.new(sampled=True)
        with serving(Call("/x", Principal("key", "k1", "acme"), trace=trace, request_id="r-1")):
            mine = current_call()
            await mesh.call()
            assert current_call() is mine, "the handler's call must not stay the caller's"
        (call,) = seen
        assert call is not None
        assert call.method == "/moltbot.tool.v1.ToolService/CallTool"
        assert (call.principal.kind, call.principal.subject, call.principal.tenant) == ("service", "gateway", "acme")
        assert (call.trace.trace_id, call.trace.sampled, call.request_id) == (trace.trace_id, True, "r-1")

    async def test_metadata_travels_both_ways(self, mesh):
        async def behave(_, context):
            given = dict(context.invocation_metadata())
            await context.send_initial_metadata((("x-first", given["x-mine"]),))
            context.set_trailing_metadata((("x-last", "z"),))
            return tool_pb2.CallToolResponse()

        mesh.tools.behave = behave
        call = mesh.tool_stub.CallTool(tool_pb2.CallToolRequest(name="x"), metadata=(("x-mine", "a"),))
        await call
        assert dict(await call.initial_metadata())["x-first"] == "a"
        assert dict(await call.trailing_metadata())["x-last"] == "z"

    async def test_an_error_arrives_as_the_class_it_was_with_all_it_says(self, mesh):
        async def behave(*_):
            raise ResourceExhausted(
                "no more — später",
                reason="QUOTA_EXCEEDED",
                metadata={"tenant": "acme"},
                violations=[FieldViolation("messages[0].role", "is wrong")],
                retry_after_s=1.5,
            )

        mesh.tools.behave = behave
        with pytest.raises(ResourceExhausted) as raised:
            await mesh.call()
        error = raised.value
        assert (error.message, error.reason, error.retry_after_s) == ("no more — später", "QUOTA_EXCEEDED", 1.5)
        assert error.metadata["tenant"] == "acme"
        assert error.violations == (FieldViolation("messages[0].role", "is wrong"),)

    async def test_an_error_names_the_request(self, mesh):
        async def behave(*_):
            raise NotFound("no")

        mesh.tools.behave = behave
        with serving(Call("/x", request_id="r-7")), pytest.raises(NotFound) as raised:
            await mesh.call()
        assert raised.value.metadata["request_id"] == "r-7"

    async def test_a_defect_becomes_internal_and_says_nothing_of_itself(self, mesh):
        async def behave(*_):
            raise KeyError("the secret")

        mesh.tools.behave = behave
        with pytest.raises(Internal) as raised:
            await mesh.call()
        assert "secret" not in raised.value.message
        assert "log" in raised.value.message

    async def test_a_timeout_within_the_handler_is_a_passed_deadline(self, mesh):
        async def behave(*_):
            raise TimeoutError

        mesh.tools.behave = behave
        with pytest.raises(DeadlineExceeded):
            await mesh.call()

    async def test_a_servicers_own_abort_passes(self, mesh):
        async def behave(_, context):
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here")

        mesh.tools.behave = behave
        with pytest.raises(NotFound, match="not here"):
            await mesh.call()

    async def test_a_request_that_breaks_the_contract_never_reaches_the_handler(self, mesh):
        async def behave(*_):
            pytest.fail("called")

        mesh.tools.behave = behave
        with pytest.raises(InvalidArgument) as raised:
            await mesh.call("")
        assert [violation.field for violation in raised.value.violations] == ["name"]

    async def test_messages_are_not_shared(self, mesh):
        kept: list[Any] = []

        async def behave(request, _):
            answer = tool_pb2.CallToolResponse(content=request.name)
            kept.extend((request, answer))
            request.name = "theirs"
            return answer

        mesh.tools.behave = behave
        request = tool_pb2.CallToolRequest(name="mine")
        answer = await mesh.tool_stub.CallTool(request)
        kept[1].content = "changed"
        assert (request.name, answer.content) == ("mine", "mine")
        answer.content = "other"
        assert kept[1].content == "changed"

    async def test_an_unknown_method_is_unimplemented(self, mesh):
        stub: Any = context_pb2_grpc.ContextServiceStub(mesh.channel)
        with pytest.raises(Unimplemented):
            await stub.GetSession(context_pb2.GetSessionRequest(session="x"))

    async def test_calls_are_counted_by_their_code(self, mesh):
        async def behave(*_):
            raise NotFound("no")

        mesh.tools.behave = behave
        with pytest.raises(NotFound):
            await mesh.call()
        labels = {"service": "tool", "method": "/moltbot.tool.v1.ToolService/CallTool", "code": "NOT_FOUND"}
        assert mesh.metrics.registry.get_sample_value("moltbot_rpc_seconds_count", labels) == 1


class TestAccess:
    """By the bare channel: what somebody sends who is no service of the mesh."""

    async def refused(self, mesh, method: str, request: Any, *metadata: tuple[str, str]) -> tuple[str, dict]:
        stub: Any = tool_pb2_grpc.ToolServiceStub(mesh.bare)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await getattr(stub, method)(request, metadata=metadata, timeout=PATIENCE_S)
        return raised.value.code().name, dict(raised.value.trailing_metadata())

    async def test_a_services_method_is_closed_to_whoever_has_no_token(self, mesh):
        code, trailing = await self.refused(mesh, "CallTool", tool_pb2.CallToolRequest(name="x"))
        assert code == "PERMISSION_DENIED"
        assert STATUS_DETAILS in trailing

    async def test_a_services_method_is_closed_to_api_keys(self, mesh):
        _, key = await mesh.keys.create("acme", frozenset({"admin"}))
        header = ("authorization", f"Bearer {key}")
        code, _ = await self.refused(mesh, "CallTool", tool_pb2.CallToolRequest(name="x"), header)
        assert code == "PERMISSION_DENIED"

    async def test_a_forged_token_opens_nothing(self, mesh):
        token = ("x-mesh-token", MeshIdentity(bytes(32), "gateway").token())
        call, listing = tool_pb2.CallToolRequest(name="x"), tool_pb2.ListToolsRequest()
        for method, request in (("CallTool", call), ("ListTools", listing)):
            assert (await self.refused(mesh, method, request, token))[0] == "UNAUTHENTICATED"

    async def test_a_tenants_method_wants_a_key(self, mesh):
        assert (await self.refused(mesh, "ListTools", tool_pb2.ListToolsRequest()))[0] == "UNAUTHENTICATED"
        wrong = ("authorization", "Bearer mb_aaaa_bbbb")
        assert (await self.refused(mesh, "ListTools", tool_pb2.ListToolsRequest(), wrong))[0] == "UNAUTHENTICATED"

    async def test_a_key_acts_for_its_own_tenant_whatever_else_it_sends(self, mesh):
        _, key = await mesh.keys.create("acme")
        stub: Any = tool_pb2_grpc.ToolServiceStub(mesh.bare)
        metadata = (("authorization", f"Bearer {key}"), ("x-mesh-tenant", "other"), ("x-mesh-subject", "gateway"))
        assert (await stub.ListTools(tool_pb2.ListToolsRequest(), metadata=metadata)).next_page_token == "key:acme"

    async def test_an_operators_method_wants_the_role(self, mesh):
        request = tool_pb2.GetToolRequest(name="x")
        _, user = await mesh.keys.create("acme")
        code, _ = await self.refused(mesh, "GetTool", request, ("authorization", f"Bearer {user}"))
        assert code == "PERMISSION_DENIED"
        _, admin = await mesh.keys.create("acme", frozenset({"admin"}))
        stub: Any = tool_pb2_grpc.ToolServiceStub(mesh.bare)
        assert (await stub.GetTool(request, metadata=(("authorization", f"Bearer {admin}"),))).tool.name == "x"

    async def test_access_is_checked_before_the_request(self, mesh):
        assert (await self.refused(mesh, "CallTool", tool_pb2.CallToolRequest()))[0] == "PERMISSION_DENIED"

    async def test_a_mesh_channel_raises_the_meshs_errors(self, mesh):
        channel: Any = MeshChannel(mesh.bare, MeshIdentity(bytes(32), "gateway"), "tool")
        stranger: Any = tool_pb2_grpc.ToolServiceStub(channel)
        with pytest.raises(Unauthenticated, match="mesh key"):
            await stranger.CallTool(tool_pb2.CallToolRequest(name="x"))


class TestAStreamOfAnswers:
    def watch(self, mesh, **rest) -> Any:
        return mesh.router_stub.WatchTable(router_pb2.WatchTableRequest(known_version=3), **rest)

    async def test_answers_come_in_order_and_end(self, mesh):
        async def watch(request, _):
            for version in range(request.known_version):
                yield router_pb2.WatchTableResponse(version=version)

        mesh.router.watch = watch
        assert [answer.version async for answer in self.watch(mesh)] == [0, 1, 2]

    async def test_answers_can_be_read_one_by_one(self, mesh):
        async def watch(*_):
            yield router_pb2.WatchTableResponse(version=1)

        mesh.router.watch = watch
        call = self.watch(mesh)
        assert (await call.read()).version == 1
        assert await call.read() is grpc.aio.EOF

    async def test_an_error_comes_after_the_answers_before_it(self, mesh):
        async def watch(*_):
            yield router_pb2.WatchTableResponse(version=1)
            raise ResourceExhausted("enough", retry_after_s=2.0)

        mesh.router.watch = watch
        answers = aiter(self.watch(mesh))
        assert (await anext(answers)).version == 1
        with pytest.raises(ResourceExhausted) as raised:
            await anext(answers)
        assert raised.value.retry_after_s == 2.0

    async def test_a_defect_becomes_internal(self, mesh):
        async def watch(*_):
            yield router_pb2.WatchTableResponse(version=1)
            raise ValueError("the secret")

        mesh.router.watch = watch
        with pytest.raises(Internal) as raised:
            _ = [answer async for answer in self.watch(mesh)]
        assert "secret" not in raised.value.message

    async def test_a_deadline_ends_the_handler(self, mesh):
        ended = asyncio.Event()

        async def watch(*_):
            try:
                yield router_pb2.WatchTableResponse(version=1)
                await asyncio.sleep(PATIENCE_S)
            finally:
                ended.set()

        await mesh.connect()
        mesh.router.watch = watch
        with pytest.raises(DeadlineExceeded):
            _ = [answer async for answer in self.watch(mesh, timeout=1.0)]
        await asyncio.wait_for(ended.wait(), PATIENCE_S)

    @pytest.mark.parametrize("waiting", [True, False], ids=["that waits", "that stands between two answers"])
    async def test_cancelling_reaches_a_handler(self, mesh, waiting):
        ended = asyncio.Event()

        async def watch(*_):
            try:
                while True:
                    yield router_pb2.WatchTableResponse(version=1)
                    if waiting:
                        await asyncio.sleep(PATIENCE_S)
            finally:
                ended.set()

        mesh.router.watch = watch
        call = self.watch(mesh)
        await call.read()
        reading = asyncio.create_task(call.read()) if waiting else None
        await asyncio.sleep(0.02)
        assert call.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        if reading is not None:
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED

    async def test_a_reader_that_stops_early_ends_the_handler(self, mesh):
        ended = asyncio.Event()

        async def watch(*_):
            try:
                while True:
                    yield router_pb2.WatchTableResponse(version=1)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        mesh.router.watch = watch
        answers = aiter(self.watch(mesh))
        await anext(answers)
        await answers.aclose()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)

    async def test_a_slow_reader_slows_the_handler(self, mesh):
        made = 0

        async def watch(*_):
            nonlocal made
            while True:
                made += 1
                yield router_pb2.WatchTableResponse(rules=[router_pb2.Rule(task_type="x" * 1_000_000)])

        mesh.router.watch = watch
        call = self.watch(mesh)
        await call.read()
        await asyncio.sleep(0.3)
        assert made < 100, "the handler must wait for the reader"
        call.cancel()

    async def test_the_call_being_served_is_the_handlers_own_at_every_step(self, mesh):
        tenants = []

        async def watch(*_):
            for _ in range(3):
                call = current_call()
                assert call is not None
                tenants.append(call.principal.tenant)
                yield router_pb2.WatchTableResponse()

        mesh.router.watch = watch
        with serving(Call("/x", Principal("key", "k", "acme"))):
            mine = current_call()
            async for _ in self.watch(mesh):
                assert current_call() is mine
        assert tenants == ["acme"] * 3

    async def test_answers_are_not_shared(self, mesh):
        async def watch(*_):
            answer = router_pb2.WatchTableResponse(version=1)
            yield answer
            answer.version = 2
            yield answer

        mesh.router.watch = watch
        assert [answer.version for answer in [a async for a in self.watch(mesh)]] == [1, 2]


def outcomes(*models: str) -> router_pb2.ReportOutcomesRequest:
    return router_pb2.ReportOutcomesRequest(outcomes=[router_pb2.CallOutcome(model=model) for model in models])


async def count(requests, _):
    return router_pb2.ReportOutcomesResponse(accepted=sum([len(request.outcomes) async for request in requests]))


class TestAStreamOfRequests:
    async def test_requests_are_written_one_by_one(self, mesh):
        mesh.router.report = count
        call = mesh.router_stub.ReportOutcomes()
        await call.write(outcomes("a", "b"))
        await call.write(outcomes("c"))
        await call.done_writing()
        assert (await call).accepted == 3

    async def test_requests_come_from_an_iterator(self, mesh):
        async def requests():
            for _ in range(100):
                yield outcomes("a")

        mesh.router.report = count
        assert (await mesh.router_stub.ReportOutcomes(requests())).accepted == 100

    async def test_requests_are_not_shared(self, mesh):
        seen = []

        async def report(requests, _):
            seen.extend([request.outcomes[0].model async for request in requests])
            return router_pb2.ReportOutcomesResponse()

        mesh.router.report = report
        call = mesh.router_stub.ReportOutcomes()
        request = outcomes("a")
        await call.write(request)
        request.outcomes[0].model = "b"
        await call.write(request)
        await call.done_writing()
        await call
        assert seen == ["a", "b"]

    async def test_the_handler_may_answer_before_the_requests_end(self, mesh):
        async def report(requests, _):
            await anext(aiter(requests))
            return router_pb2.ReportOutcomesResponse(accepted=1)

        mesh.router.report = report
        call = mesh.router_stub.ReportOutcomes()
        await call.write(outcomes("a"))
        assert (await call).accepted == 1
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(outcomes("b"))
        await call.done_writing()

    async def test_writing_to_a_call_that_was_refused_says_why(self, mesh):
        async def report(*_):
            raise ResourceExhausted("full", reason="OVERLOADED")

        mesh.router.report = report
        call = mesh.router_stub.ReportOutcomes()

        async def write() -> None:
            while True:
                await call.write(outcomes("a"))
                await asyncio.sleep(0.005)

        with pytest.raises(ResourceExhausted, match="full"):
            await asyncio.wait_for(write(), PATIENCE_S)

    async def test_cancelling_reaches_the_handler(self, mesh):
        began, ended = asyncio.Event(), asyncio.Event()

        async def report(requests, _):
            try:
                async for _ in requests:
                    began.set()
            finally:
                ended.set()

        mesh.router.report = report
        call = mesh.router_stub.ReportOutcomes()
        await call.write(outcomes("a"))
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        call.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        with pytest.raises(asyncio.CancelledError):
            await call

    async def test_requests_that_break_off_end_the_call(self, mesh):
        ended = asyncio.Event()

        async def requests():
            yield outcomes("a")
            raise ValueError("the caller's own mistake")

        async def report(given, _):
            try:
                return await count(given, _)
            finally:
                ended.set()

        mesh.router.report = report
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(mesh.router_stub.ReportOutcomes(requests()), PATIENCE_S)
        await asyncio.wait_for(ended.wait(), PATIENCE_S)

    async def test_a_deadline_ends_the_call(self, mesh):
        mesh.router.report = count
        call = mesh.router_stub.ReportOutcomes(timeout=0.1)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(call, PATIENCE_S)


class TestStreamsBothWays:
    async def test_each_request_is_answered_as_it_comes(self, mesh):
        async def append(requests, _):
            async for request in requests:
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id)

        mesh.audit.append = append
        call = mesh.audit_stub.AppendStream()
        for batch in range(50):
            await call.write(audit_pb2.AppendStreamRequest(batch_id=batch))
            assert (await call.read()).batch_id == batch
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    async def test_an_iterator_and_a_loop(self, mesh):
        async def append(requests, _):
            async for request in requests:
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id)

        async def requests():
            for batch in range(100):
                yield audit_pb2.AppendStreamRequest(batch_id=batch)

        mesh.audit.append = append
        assert [a.batch_id async for a in mesh.audit_stub.AppendStream(requests())] == list(range(100))

    async def test_the_handler_may_end_first(self, mesh):
        async def append(requests, _):
            async for request in requests:
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id)
                return

        mesh.audit.append = append
        call = mesh.audit_stub.AppendStream()
        await call.write(audit_pb2.AppendStreamRequest(batch_id=7))
        assert [answer.batch_id async for answer in call] == [7]

    async def test_an_error_comes_after_the_answers_before_it(self, mesh):
        async def append(requests, _):
            async for request in requests:
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id)
                raise NotFound("gone")

        mesh.audit.append = append
        call = mesh.audit_stub.AppendStream()
        await call.write(audit_pb2.AppendStreamRequest(batch_id=7))
        assert (await call.read()).batch_id == 7
        with pytest.raises(NotFound, match="gone"):
            await call.read()

    async def test_a_handler_that_reads_nothing_stops_the_writer(self, mesh):
        async def append(*_):
            await asyncio.sleep(PATIENCE_S)
            yield audit_pb2.AppendStreamResponse()

        mesh.audit.append = append
        call = mesh.audit_stub.AppendStream()
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await call.write(audit_pb2.AppendStreamRequest(events=[bytes(1_000_000)]))
                written += 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(write(), 0.3)
        assert written < 100
        call.cancel()

    async def test_a_reader_that_stops_early_ends_the_handler(self, mesh):
        ended = asyncio.Event()

        async def append(requests, _):
            try:
                while True:
                    yield audit_pb2.AppendStreamResponse()
                    await asyncio.sleep(0)
            finally:
                ended.set()

        mesh.audit.append = append
        answers = aiter(mesh.audit_stub.AppendStream())
        await anext(answers)
        await answers.aclose()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
