from __future__ import annotations

import pytest
from moltbot.tool.v1 import tool_pb2, tool_pb2_grpc

from moltbot_mesh.api_keys import ApiKeys
from moltbot_mesh.call import TraceContext, acting_tenant, current_call
from moltbot_mesh.identity import MeshIdentity
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import Surroundings, wrapped_handlers
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_mesh.module import Access, Registration
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings


@pytest.fixture
def around() -> Surroundings:
    return Surroundings(Telemetry("tool", Metrics(), TelemetrySettings()), MeshIdentity(bytes(32), "tool"), None)


def registration(servicer, **access: Access) -> Registration:
    return Registration(tool_pb2_grpc.add_ToolServiceServicer_to_server, servicer, access)


def test_access_of_a_method_that_is_not_there_is_a_defect(around):
    with pytest.raises(ValueError, match="Lst"):
        wrapped_handlers(registration(tool_pb2_grpc.ToolServiceServicer(), Lst=Access.PUBLIC), around)


def test_every_method_of_the_service_is_wrapped(around):
    found = wrapped_handlers(registration(tool_pb2_grpc.ToolServiceServicer()), around)
    assert {name.rpartition("/")[2] for name in found} == {"ListTools", "GetTool", "CallTool"}


class Echo(tool_pb2_grpc.ToolServiceServicer):
    async def ListTools(self, request, context):  # noqa: N802
        call = current_call()
        assert call is not None
        said = (call.principal.kind, acting_tenant(request.tenant), call.trace.traceparent, call.request_id, call.peer)
        return tool_pb2.ListToolsResponse(next_page_token="|".join(said))


async def echo(around, *metadata: tuple[str, str], access: Access = Access.PUBLIC, tenant: str = "") -> list[str]:
    handlers = wrapped_handlers(registration(Echo(), ListTools=access), around)
    stub = tool_pb2_grpc.ToolServiceStub(InProcessChannel(handlers))  # type: ignore[arg-type]
    answer = await stub.ListTools(tool_pb2.ListToolsRequest(tenant=tenant), metadata=metadata)  # type: ignore[misc]
    return answer.next_page_token.split("|")


async def test_a_public_method_serves_anybody_and_reads_the_trace(around):
    trace = TraceContext.new(sampled=False)
    metadata = (("traceparent", trace.traceparent), ("x-request-id", "r"), ("x-moltbot-peer", "10.0.0.1"))
    assert await echo(around, *metadata) == ["anonymous", "", trace.traceparent, "r", "10.0.0.1"]


@pytest.mark.parametrize(
    "header",
    ["", "x", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01", "00-12-34-01"],
)
async def test_a_malformed_trace_begins_a_new_one(around, header):
    traceparent = (await echo(around, ("traceparent", header)))[2]
    assert traceparent != header
    assert TraceContext.parse(traceparent) is not None


async def test_who_has_no_token_cannot_say_for_whom_it_acts(around):
    assert (await echo(around, ("x-mesh-tenant", "acme")))[1] == ""


async def test_a_service_acts_for_the_tenant_it_names_or_whose_request_it_serves(around):
    token = ("x-mesh-token", MeshIdentity(bytes(32), "gateway").token())
    kind, tenant, *_ = await echo(around, token, ("x-mesh-tenant", "acme"), access=Access.SERVICE)
    assert (kind, tenant) == ("service", "acme")
    assert (await echo(around, token, ("x-mesh-tenant", "acme"), access=Access.SERVICE, tenant="other"))[1] == "other"


async def test_where_no_key_opens_anything_a_key_opens_nothing(around):
    with pytest.raises(Exception, match="services of the mesh only"):
        await echo(around, ("authorization", "Bearer mb_a_b"), access=Access.TENANT)


async def test_a_key_is_taken_as_x_api_key_too_and_authorization_comes_first():
    keys = ApiKeys(MemoryKeyValueStore())
    _, text = await keys.create("acme", frozenset({"user"}), "")
    around = Surroundings(Telemetry("tool", Metrics(), TelemetrySettings()), MeshIdentity(bytes(32), "tool"), keys)
    assert (await echo(around, ("x-api-key", text), access=Access.TENANT))[:2] == ["key", "acme"]
    with pytest.raises(Exception, match="API key"):
        await echo(around, ("x-api-key", text), ("authorization", "Bearer mb_a_b"), access=Access.TENANT)
