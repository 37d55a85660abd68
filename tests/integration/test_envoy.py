"""The real Envoy in front of a small gateway: what clients see, and what the gateway gets to see."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import io
import json
import os
import signal
import ssl
import struct
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.api.httpbody_pb2 import HttpBody
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from moltbot.gateway.v1 import gateway_pb2, gateway_pb2_grpc, openai_pb2_grpc
from moltbot.router.v1 import router_pb2, router_pb2_grpc
from moltbot.third_party.envoy.v3 import accesslog_pb2, accesslog_pb2_grpc

from moltbot_mesh.envoy.config import EXPOSED, EnvoyConfig
from moltbot_mesh.envoy.log_files import keep_within
from moltbot_mesh.envoy.process import EnvoyProcess
from moltbot_mesh.envoy.refusals import RefusedRequest, parse_message
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, Unavailable
from moltbot_mesh.http_routes import SERVED
from moltbot_mesh.http_server import HttpRoutes, HttpServer
from moltbot_mesh.interceptors import HandlerTable
from moltbot_testkit.envoy import RunningEnvoy, running_envoy

DESCRIPTORS = Path(__file__).parents[2] / "libs/protos/moltbot/descriptor_set.binpb"
LIMIT = 16 << 20
SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", 24 << 20),
    ("grpc.max_metadata_size", 32 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
]
CHAT = "/v1/chat/completions"


@dataclass
class Seen:
    """What reached the gateway."""

    calls: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    refused: list[RefusedRequest] = field(default_factory=list)
    refusal: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, name: str, context: Any, size: int = 0) -> None:
        self.calls.append((name, dict(context.invocation_metadata()), size))

    @property
    def headers(self) -> dict[str, str]:
        return self.calls[-1][1]


class OpenAI(openai_pb2_grpc.OpenAIServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def ChatCompletions(self, request, context):  # noqa: N802
        self.seen.note("chat", context, len(request.data))
        if request.data.startswith(b"stream"):
            try:
                yield HttpBody(content_type="text/event-stream", data=b"data: one\n\n")
                self.seen.started.set()
                await self.seen.go_on.wait()
                yield HttpBody(content_type="text/event-stream", data=b"data: two\n\n")
            except asyncio.CancelledError:
                self.seen.cancelled.set()
                raise
            return
        headers = [("x-moltbot-receipt", "r1"), ("x-moltbot-model", "m1"), ("x-mesh-secret", "s")]
        if request.data == b"quota":
            headers += [("x-mesh-status", "429"), ("retry-after", "7")]
            await context.send_initial_metadata(headers)
            yield HttpBody(content_type="application/json", data=b'{"error":{"code":"quota"}}')
            return
        await context.send_initial_metadata(headers)
        yield HttpBody(content_type="application/json", data=b'{"size":%d}' % len(request.data))

    async def RetrieveModel(self, request, context):  # noqa: N802
        self.seen.note("model", context)
        yield HttpBody(content_type="application/json", data=json.dumps({"id": request.model}).encode())

    async def Refuse(self, request, context):  # noqa: N802
        self.seen.note("refuse", context, len(request.data))
        await context.send_initial_metadata([("x-mesh-status", "404")])
        yield HttpBody(content_type="application/json", data=b'{"error":{"code":"route_not_found"}}')


class Operations(openai_pb2_grpc.OperationsServiceServicer):
    async def Healthz(self, request, context):  # noqa: N802
        return HttpBody(content_type="application/json", data=b"{}")


class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def Chat(self, request, context):  # noqa: N802
        self.seen.note("typed", context)
        if not request.model:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return gateway_pb2.ChatResponse(message=gateway_pb2.Message(content=request.model))


class AccessLog(accesslog_pb2_grpc.AccessLogServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def StreamAccessLogs(self, request_iterator, context):  # noqa: N802
        async for message in request_iterator:
            self.seen.refused.extend(parse_message(message))
            self.seen.refusal.set()
        return accesslog_pb2.StreamAccessLogsResponse()


@dataclass
class Front:
    envoy: RunningEnvoy
    seen: Seen
    http: aiohttp.ClientSession

    @property
    def chat(self) -> str:
        return self.envoy.url + CHAT

    async def raw(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.envoy.port)
        try:
            writer.write(request)
            async with asyncio.timeout(5):
                return await reader.read(65536)
        finally:
            writer.close()

    async def refusals(self, count: int = 1) -> list[RefusedRequest]:
        """Wait for `count` refusals, and a moment more for one too many."""
        async with asyncio.timeout(5):
            while len(self.seen.refused) < count:
                await self.seen.refusal.wait()
                self.seen.refusal.clear()
        await asyncio.sleep(0.1)
        return self.seen.refused


@contextlib.asynccontextmanager
async def gateway(seen: Seen, *addresses: str):
    server = grpc.aio.server(options=SERVER_OPTIONS)
    openai_pb2_grpc.add_OpenAIServiceServicer_to_server(OpenAI(seen), server)
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(Gateway(seen), server)
    accesslog_pb2_grpc.add_AccessLogServiceServicer_to_server(AccessLog(seen), server)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(["moltbot.gateway.v1.GatewayService"], server)
    ports = [server.add_insecure_port(address) for address in addresses]
    await server.start()
    try:
        yield ports
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def by_http(seen: Seen, address: str):
    """The same gateway by HTTP/1.1; yields its address as Envoy is told it."""
    table = HandlerTable()
    openai_pb2_grpc.add_OpenAIServiceServicer_to_server(OpenAI(seen), table)
    openai_pb2_grpc.add_OperationsServiceServicer_to_server(Operations(), table)
    server = HttpServer(table.handlers, HttpRoutes(SERVED, LIMIT))
    async with server.serving(address, grace_s=5) as port:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"


@pytest.fixture(params=["http", "grpc"])
async def front(request):
    """Envoy before a gateway that it reaches by HTTP/1.1, or for all routes by gRPC."""
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:
        socket = Path(name) / "mesh.sock"
        upstreams = dict.fromkeys(EXPOSED, (f"unix:{socket}",))
        upstreams["router"] = (f"unix:{name}/nobody.sock",)
        async with (
            gateway(seen, f"unix:{socket}"),
            by_http(seen, f"unix:{name}/http.sock") as http_address,
            running_envoy(
                Path(name),
                DESCRIPTORS,
                upstreams,
                http_upstream=(http_address,) if request.param == "http" else (),
            ) as envoy,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http,
        ):
            yield Front(envoy, seen, http)


@pytest.fixture
async def channel(front):
    async with grpc.aio.insecure_channel(front.envoy.target) as opened:
        yield opened


async def test_json_is_answered_with_the_gateways_headers_and_no_internal_ones(front):
    async with front.http.post(front.chat, data=b"{}") as response:
        assert response.status == 200
        assert await response.json() == {"size": 2}
        assert response.headers["x-moltbot-receipt"] == "r1"
        assert response.headers["x-moltbot-model"] == "m1"
        assert response.headers["x-request-id"] == front.seen.headers["x-request-id"]
        internal = [n for n in response.headers if n.lower().startswith(("x-mesh-", "grpc-", "x-envoy-"))]
        assert internal == []


async def test_the_gateways_status_becomes_the_http_status(front):
    async with front.http.post(front.chat, data=b"quota") as response:
        assert response.status == 429
        assert response.headers["retry-after"] == "7"
        assert await response.json() == {"error": {"code": "quota"}}


async def test_server_sent_events_arrive_one_by_one(front):
    async with front.http.post(front.chat, data=b"stream") as response:
        assert response.headers["content-type"] == "text/event-stream"
        async with asyncio.timeout(5):
            assert await response.content.readuntil(b"\n\n") == b"data: one\n\n"
        front.seen.go_on.set()
        assert await response.read() == b"data: two\n\n"


async def test_a_client_gone_mid_stream_cancels_the_call(front):
    response = await front.http.post(front.chat, data=b"stream")
    await response.content.readuntil(b"\n\n")
    response.close()
    async with asyncio.timeout(5):
        await front.seen.cancelled.wait()
    await asyncio.sleep(0.1)
    assert front.seen.refused == []


async def test_identity_headers_of_the_client_are_replaced(front):
    forged = {
        "x-mesh-token": "t",
        "x-mesh-tenant": "other",
        "x-moltbot-peer": "1.1.1.1",
        "x-mesh-path": "/x",
        "x-envoy-max-retries": "9",
        "X-Request-Id": "mine-1",
    }
    async with front.http.post(front.chat + "?key=secret", data=b"{}", headers=forged) as response:
        assert response.headers["x-request-id"] == "mine-1"
    headers = front.seen.headers
    assert "x-mesh-token" not in headers
    assert "x-mesh-tenant" not in headers
    assert "x-envoy-max-retries" not in headers
    assert headers["x-moltbot-peer"].startswith("127.0.0.1:")
    assert headers["x-mesh-method"] == "POST"
    assert headers["x-mesh-path"] == CHAT
    assert headers["x-request-id"] == "mine-1"


async def test_a_request_id_that_is_none_is_replaced(front):
    async with front.http.post(front.chat, data=b"{}", headers={"x-request-id": 'a"b <c>'}) as response:
        assert len(response.headers["x-request-id"]) == 36
        assert front.seen.headers["x-request-id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("PUT", "/foo/bar"), ("POST", "/v1/chat"), ("OPTIONS", "/"), ("PATCH", "/a:b")]
)
async def test_an_unknown_route_reaches_the_gateway_whatever_its_body(front, method, path):
    async with front.http.request(method, front.envoy.url + path, data=b"{not json") as response:
        assert response.status == 404
        assert await response.json() == {"error": {"code": "route_not_found"}}
    name, headers, size = front.seen.calls[-1]
    assert (name, size) == ("refuse", 9)
    assert (headers["x-mesh-method"], headers["x-mesh-path"]) == (method, path)


async def test_a_model_id_may_have_slashes_and_unknown_parameters_are_ignored(front):
    for written in ("org/name", "org%2Fname"):
        async with front.http.get(f"{front.envoy.url}/v1/models/{written}?after=x") as response:
            assert await response.json() == {"id": "org/name"}


async def test_errors_of_typed_routes_are_google_rpc_status(front):
    async with front.http.post(front.envoy.url + "/moltbot/v1/chat", json={"model": ""}) as response:
        assert response.status == 404
        assert await response.json() == {"code": 5, "message": "no such model", "details": []}


@pytest.mark.parametrize("size", [10 << 20, LIMIT])
async def test_a_large_body_passes(front, size):
    async with front.http.post(front.chat, data=io.BytesIO(bytes(size))) as response:
        assert await response.json() == {"size": size}


async def test_headers_just_under_the_limit_pass(front):
    async with front.http.post(front.chat, data=b"{}", headers={"cookie": "a" * 15_000}) as response:
        assert response.status == 200
    assert len(front.seen.headers["cookie"]) == 15_000


async def test_a_body_past_the_limit_is_refused_and_told_to_the_gateway_once(front):
    headers = {"expect": "100-continue", "x-request-id": "too-big"}
    body = io.BytesIO(bytes(20_000_000))
    async with front.http.post(front.chat + "?q=secret", data=body, headers=headers) as response:
        assert response.status == 413
        error = (await response.json())["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "request_too_large")
    (refused,) = await front.refusals()
    assert (refused.method, refused.path, refused.request_id) == ("POST", CHAT, "too-big")
    assert (refused.http_status, refused.peer) == (413, "127.0.0.1")
    assert abs(refused.start_time_ns / 1e9 - time.time()) < 60
    assert [name for name, _, _ in front.seen.calls] == []


@pytest.mark.parametrize(
    ("request_bytes", "status", "details"),
    [
        (b"GARBAGE\r\n\r\n", 400, "http1.codec_error"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "missing_host_header"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx_tenant: b\r\n\r\n", 400, "http1.unexpected_underscore"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", 431, "http1.headers_too_large"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 403, "upgrade_failed"),
        (b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", 405, "lua_response"),
        (
            b"POST /moltbot/v1/chat HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n{",
            400,
            "grpc_json_transcode_failure",
        ),
    ],
)
async def test_what_envoy_refuses_has_openais_shape_and_is_told_once(front, request_bytes, status, details):
    answer = await front.raw(request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    (refused,) = await front.refusals()
    assert refused.http_status == status
    assert refused.details.startswith(details)


async def test_a_service_that_is_down_is_503_and_told_to_the_gateway(front, channel):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await router_pb2_grpc.RouterServiceStub(channel).ListModels(router_pb2.ListModelsRequest(), timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    (refused,) = await front.refusals()
    assert refused.path == "/moltbot.router.v1.RouterService/ListModels"
    assert refused.grpc_status == grpc.StatusCode.UNAVAILABLE.value[0]


async def test_grpc_reaches_the_gateway_with_errors_intact(front, channel):
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    answer = await stub.Chat(gateway_pb2.ChatRequest(model="m"), metadata=[("x-mesh-token", "forged")], timeout=5)
    assert answer.message.content == "m"
    assert "x-mesh-token" not in front.seen.headers
    assert "x-mesh-path" not in front.seen.headers
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Chat(gateway_pb2.ChatRequest(), timeout=5)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such model")
    assert front.seen.refused == []


@pytest.mark.parametrize(
    "method",
    [
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        "/moltbot.gateway.v1.GatewayService/NoSuchMethod",
    ],
)
async def test_grpc_methods_that_are_not_exposed_are_unimplemented_and_told_once(front, channel, method):
    call = channel.stream_unary(method)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(iter([b""]), timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    (refused,) = await front.refusals()
    assert refused.path == method
    assert refused.grpc_status == grpc.StatusCode.UNIMPLEMENTED.value[0]


async def test_health_and_reflection_pass(front, channel):
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=5)
    listed = [service.name async for answer in call for service in answer.list_services_response.service]
    assert listed == ["moltbot.gateway.v1.GatewayService"]


async def test_grpc_web_is_answered(front):
    message = gateway_pb2.ChatRequest(model="web").SerializeToString()
    frame = struct.pack(">BI", 0, len(message)) + message
    url = front.envoy.url + "/moltbot.gateway.v1.GatewayService/Chat"
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": "https://evil.example"}
    async with front.http.post(url, data=frame, headers=headers) as response:
        assert response.headers["content-type"] == "application/grpc-web+proto"
        assert "access-control-allow-origin" not in response.headers
        body = await response.read()
    size = struct.unpack(">BI", body[:5])[1]
    assert gateway_pb2.ChatResponse.FromString(body[5 : 5 + size]).message.content == "web"
    assert b"grpc-status:0" in body[5 + size :]


async def test_draining_lets_a_running_stream_end(front):
    async with front.http.post(front.chat, data=b"stream") as response:
        await front.seen.started.wait()
        draining = asyncio.create_task(front.envoy.process.drain())
        await asyncio.sleep(0.3)
        assert not draining.done()
        front.seen.go_on.set()
        assert (await response.read()).endswith(b"data: two\n\n")
        assert await draining == 0


async def test_an_envoy_that_hangs_is_not_alive_and_one_that_drains_is(front):
    admin = front.envoy.process.admin
    async with front.http.post(front.chat, data=b"stream") as response:
        await front.seen.started.wait()
        draining = asyncio.create_task(front.envoy.process.drain())
        await asyncio.sleep(0.1)
        await admin.alive()
        front.seen.go_on.set()
        await response.read()
        await draining
    os.kill(front.envoy.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            await admin.alive()
    finally:
        os.kill(front.envoy.pid, signal.SIGCONT)


async def test_the_access_log_has_no_query_and_no_credentials(front):
    headers = {"authorization": "Bearer mb_secret", "x-request-id": "logged-1"}
    async with front.http.post(front.chat + "?token=hidden", data=b"{}", headers=headers) as response:
        await response.read()  # a client that leaves earlier may be logged as gone
    async with asyncio.timeout(5):
        while "logged-1" not in (log := front.envoy.log.read_text()):
            await asyncio.sleep(0.05)
    (line,) = [json.loads(line) for line in log.splitlines() if "logged-1" in line]
    assert (line["method"], line["path"], line["status"]) == ("POST", CHAT, 200)
    assert line["details"] == "via_upstream"
    assert "hidden" not in log
    assert "mb_secret" not in log


def logged(folder: Path) -> str:
    return "".join(one.read_text() for one in folder.glob("access.log*"))


async def test_a_large_access_log_is_put_aside_and_written_anew(tmp_path):
    seen = Seen()
    path = tmp_path / "access.log"
    async with gateway(seen, "127.0.0.1:0") as (port,), aiohttp.ClientSession() as http:
        upstreams = {"gateway": (f"127.0.0.1:{port}",)}
        async with running_envoy(tmp_path, DESCRIPTORS, upstreams, access_log=str(path)) as envoy:
            keeping = asyncio.create_task(keep_within(path, 2000, 2, envoy.process.admin, look_s=0.05))
            sent: list[str] = []
            async with asyncio.timeout(20):
                while not (tmp_path / "access.log.2").exists():
                    sent.append(f"line-{len(sent)}")
                    async with http.post(envoy.url + CHAT, data=b"{}", headers={"x-request-id": sent[-1]}) as answer:
                        await answer.read()
                    await asyncio.sleep(0.02)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            async with asyncio.timeout(20):  # Envoy's flush
                while sent[-1] not in logged(tmp_path):
                    await asyncio.sleep(0.05)
    text = logged(tmp_path)
    assert {json.loads(line)["request_id"] for line in text.splitlines()} <= set(sent)
    assert sent[-1] in text
    assert len(list(tmp_path.glob("access.log*"))) <= 3


async def test_envoy_accepts_what_is_generated_and_says_why_it_refuses(tmp_path):
    config = EnvoyConfig(dict.fromkeys(EXPOSED, ("127.0.0.1:1", "gateway.example:2")), DESCRIPTORS)
    process = EnvoyProcess(config, tmp_path)
    process.prepare()
    await process.validate()
    missing = EnvoyProcess(replace(config, descriptor_set=tmp_path / "missing.binpb"), tmp_path)
    missing.prepare()
    with pytest.raises(InvalidArgument, match=r"missing\.binpb"):
        await missing.validate()


async def test_only_the_owner_can_read_the_configuration_and_reach_the_admin_interface(front):
    process = front.envoy.process
    assert process.config_file.stat().st_mode & 0o077 == 0
    assert process.config.admin_path.stat().st_mode & 0o077 == 0


async def test_a_port_that_is_taken_is_told_before_envoy_starts(front, tmp_path):
    config = replace(front.envoy.process.config, listen_port=front.envoy.port)
    with pytest.raises(FailedPrecondition, match="choose another port"):
        EnvoyProcess(config, tmp_path).check_port()


async def test_grpc_web_to_an_unknown_service_is_unimplemented(front):
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    async with front.http.post(front.envoy.url + "/a.B/C", data=bytes(5), headers=headers) as response:
        assert response.headers["grpc-status"] == "12"
    (refused,) = await front.refusals()
    assert refused.path == "/a.B/C"


@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_with_two_gateways_one_of_them_dead_every_request_is_answered(tmp_path, way):
    seen = Seen()
    async with (
        gateway(seen, "127.0.0.1:0") as (port,),
        by_http(seen, "127.0.0.1:0") as http_address,
        aiohttp.ClientSession() as http,
    ):
        upstreams = {"gateway": ("127.0.0.1:1", f"127.0.0.1:{port}")}
        http_upstream = ("127.0.0.1:1", http_address) if way == "http" else ()
        async with running_envoy(tmp_path, DESCRIPTORS, upstreams, http_upstream=http_upstream) as envoy:
            for _ in range(20):
                async with http.post(envoy.url + CHAT, data=b"{}") as response:
                    assert response.status == 200
    assert seen.refused == []


async def answered_without(statuses: list[int], calls: list[Any]) -> None:
    """Wait until 30 answers in a row have come of others than the gateway that had these calls."""
    before, count = len(statuses), len(calls)
    async with asyncio.timeout(30):
        while len(statuses) < before + 30:
            if len(calls) > count:
                before, count = len(statuses), len(calls)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_gateways_come_and_go_without_a_failed_request_or_a_cut_stream(tmp_path, way):
    first, second = Seen(), Seen()

    @contextlib.asynccontextmanager
    async def opened(seen: Seen):
        """A gateway as the settings of Envoy that lead to it."""
        async with gateway(seen, "127.0.0.1:0") as (port,), by_http(seen, "127.0.0.1:0") as address:
            yield f"127.0.0.1:{port}", address

    def upstreams(*gateways: tuple[str, str]) -> dict[str, Any]:
        by_grpc, by_http = zip(*gateways, strict=True)
        return {"upstreams": {"gateway": by_grpc}, "http_upstream": by_http if way == "http" else ()}

    async with opened(first) as old, aiohttp.ClientSession() as http:
        file = tmp_path / "clusters.json"
        async with running_envoy(tmp_path, DESCRIPTORS, **upstreams(old), clusters_file=file) as envoy:
            statuses, stop = [], asyncio.Event()

            async def load():
                while not stop.is_set():
                    async with http.post(envoy.url + CHAT, data=b"{}") as response:
                        statuses.append(response.status)

            async def streamed():
                async with http.post(envoy.url + CHAT, data=b"stream") as response:
                    return await response.text()

            async with asyncio.TaskGroup() as tasks:
                stream = tasks.create_task(streamed())
                await first.started.wait()
                tasks.create_task(load())
                async with opened(second) as new:
                    for targets in ((old, new), (new,), (old, new), (old,)):
                        envoy.process.update(replace(envoy.process.config, **upstreams(*targets)))
                        before = len(statuses)
                        while len(statuses) < before + 30:
                            await asyncio.sleep(0.01)
                        if targets == (new,):
                            # The old one gets no more; what it streams goes on.
                            await answered_without(statuses, first.calls)
                            count, before = len(first.calls), len(statuses)
                            while len(statuses) < before + 10:
                                await asyncio.sleep(0.01)
                            assert len(first.calls) == count
                            first.go_on.set()
                    await answered_without(statuses, second.calls)
                stop.set()
            assert set(statuses) == {200}
            assert second.calls
            assert "data: two" in stream.result()


async def test_the_port_speaks_tls_and_answers_the_allowed_origin_alone(tmp_path):
    key, certificate = self_signed(tmp_path)
    seen = Seen()
    settings = {"tls_certificate": certificate, "tls_key": key, "cors_origins": ("https://chat.example",)}
    trust = ssl.create_default_context(cafile=str(certificate))
    async with (
        gateway(seen, "127.0.0.1:0") as (port,),
        by_http(seen, "127.0.0.1:0") as address,
        aiohttp.ClientSession() as http,
    ):
        upstreams = {"gateway": (f"127.0.0.1:{port}",)}
        async with running_envoy(tmp_path, DESCRIPTORS, upstreams, http_upstream=(address,), **settings) as envoy:
            url = f"https://localhost:{envoy.port}{CHAT}"
            async with http.post(url, data=b"{}", ssl=trust) as response:
                assert response.status == 200
            for origin, allowed in (("https://chat.example", "https://chat.example"), ("https://evil.example", None)):
                asked = {"origin": origin, "access-control-request-method": "POST"}
                async with http.options(url, headers=asked, ssl=trust) as response:
                    assert response.headers.get("access-control-allow-origin") == allowed
            credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{envoy.port}", credentials) as channel:
                stub = gateway_pb2_grpc.GatewayServiceStub(channel)
                assert (await stub.Chat(gateway_pb2.ChatRequest(model="tls"), timeout=5)).message.content == "tls"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for `localhost`."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    key, certificate = folder / "tls.key", folder / "tls.crt"
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key, certificate
