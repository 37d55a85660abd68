"""The HTTP/1.1 server behind Envoy: answers, limits, clients that go, and the drain, over a real Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import descriptor_pool
from moltbot.gateway.v1 import openai_pb2  # noqa: F401 - fills the descriptor pool

from moltbot_mesh.errors import FailedPrecondition
from moltbot_mesh.http_routes import SERVED
from moltbot_mesh.http_server import HttpRoutes, HttpServer

ROUTES = {("POST", "/json"): "/t/Json", ("POST", "/events"): "/t/Events", ("GET", "/healthz"): "/t/Health"}
LIMIT = 1000


class Handlers:
    """What the server serves here."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.ended: list[str] = []
        self.go_on = asyncio.Event()
        self.reached = asyncio.Event()
        self.fails: str | None = None
        self.chunk = b"data: 1\n\n"
        self.chunks = 2

    async def json(self, request: HttpBody, context: Any):
        self.seen.append(dict(context.invocation_metadata()))
        self.bodies.append(request.data)
        if self.fails == "abort":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        if self.fails == "defect":
            raise RuntimeError("secret")
        await context.send_initial_metadata(
            [("x-mesh-status", "429"), ("retry-after", "3"), ("x-bad", "a\r\nset-cookie: b"), ("x-good", "fine")]
        )
        yield HttpBody(content_type="application/json", data=b'{"a":1}')
        self.ended.append("json")

    async def events(self, request: HttpBody, context: Any):
        try:
            await context.send_initial_metadata([("x-moltbot-model", "m")])
            for _ in range(self.chunks):
                yield HttpBody(content_type="text/event-stream", data=self.chunk)
            self.reached.set()
            await self.go_on.wait()
            if self.fails == "abort":
                await context.abort(grpc.StatusCode.INTERNAL, "late")
            yield HttpBody(data=b"data: [DONE]\n\n")
            self.ended.append("events")
        finally:
            self.ended.append("closed")

    async def health(self, request: HttpBody, context: Any) -> HttpBody:
        return HttpBody(content_type="application/json", data=b'{"status":"ok"}')

    def table(self) -> dict[str, Any]:
        return {
            "/t/Json": grpc.unary_stream_rpc_method_handler(self.json),
            "/t/Events": grpc.unary_stream_rpc_method_handler(self.events),
            "/t/Health": grpc.unary_unary_rpc_method_handler(self.health),
        }


class Client:
    """A connection that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def post(self, path: str, body: bytes = b"{}", fields: str = "") -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        await self.send(head.encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(5):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = text.strip().split("\r\n")
        return int(status.split(" ")[1]), dict(line.split(": ", 1) for line in lines)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, fields = await self.head()
        if "content-length" in fields:
            return status, fields, await self.reader.readexactly(int(fields["content-length"]))
        found = b""
        while chunk := await self.chunk():
            found += chunk
        return status, fields, found

    async def chunk(self) -> bytes:
        async with asyncio.timeout(5):
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def closed(self) -> bytes:
        """What is left until the server closes."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""


@pytest.fixture
def handlers():
    return Handlers()


@pytest.fixture
def routes():
    return HttpRoutes(ROUTES, LIMIT, max_connections=8)


@pytest.fixture
def target(tmp_path):
    return f"unix:{tmp_path}/run/http.sock"


@pytest.fixture
async def server(handlers, routes, target):
    server = HttpServer(handlers.table(), routes)
    async with server.serving(target, grace_s=1.0):
        yield server


@pytest.fixture
async def connect(server, target):
    writers: list[asyncio.StreamWriter] = []

    async def connected() -> Client:
        reader, writer = await asyncio.open_unix_connection(target.removeprefix("unix:"))
        writers.append(writer)
        return Client(reader, writer)

    yield connected
    for writer in writers:
        writer.close()


def test_the_routes_are_those_of_the_protos_annotations():
    for (verb, path), method in SERVED.items():
        found = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
        rule = found.GetOptions().Extensions[annotations_pb2.http]
        assert getattr(rule, verb.lower()) == path


async def test_a_whole_answer_has_its_length_its_status_and_its_fields(connect, handlers):
    client = await connect()
    await client.post("/json?a=secret", b'{"q":1}', "X-Request-Id: r1\r\n")
    status, fields, body = await client.answer()
    assert (status, body) == (429, b'{"a":1}')
    assert fields["content-type"] == "application/json"
    assert fields["retry-after"] == "3"
    assert handlers.bodies == [b'{"q":1}']
    seen = handlers.seen[0]
    assert (seen["x-request-id"], seen["x-mesh-method"], seen["x-mesh-path"]) == ("r1", "POST", "/json")


async def test_the_answer_goes_out_when_the_handler_has_ended(connect, handlers):
    client = await connect()
    await client.post("/json")
    await client.answer()
    assert handlers.ended == ["json"]


async def test_a_field_that_would_break_out_of_its_line_is_left_out(connect):
    client = await connect()
    await client.post("/json")
    _, fields, _ = await client.answer()
    assert "set-cookie" not in fields
    assert "x-bad" not in fields
    assert fields["x-good"] == "fine"


async def test_what_a_client_says_of_the_path_is_not_believed(connect, handlers):
    client = await connect()
    await client.post("/json", b"{}", "X-Mesh-Path: /elsewhere\r\nX-Mesh-Method: GET\r\n")
    await client.answer()
    assert (handlers.seen[0]["x-mesh-method"], handlers.seen[0]["x-mesh-path"]) == ("POST", "/json")


async def test_a_connection_serves_one_request_after_the_other(connect, handlers):
    client = await connect()
    for _ in range(3):
        await client.post("/json")
        assert (await client.answer())[0] == 429
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    status, _, body = await client.answer()
    assert (status, json.loads(body)) == (200, {"status": "ok"})


async def test_a_body_in_chunks_and_in_pieces_is_put_together(connect, handlers):
    client = await connect()
    await client.send(b"POST /json HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc")
    await asyncio.sleep(0.02)
    await client.send(b"\r\n2\r\nde\r\n0\r\n\r\n")
    await client.answer()
    assert handlers.bodies == [b"abcde"]


async def test_a_field_after_the_body_is_not_one_of_the_request(connect, handlers):
    client = await connect()
    head = b"POST /json HTTP/1.1\r\nHost: a\r\nAuthorization: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head + b"1\r\na\r\n0\r\nAuthorization: another\r\nX-Mesh-Token: t\r\n\r\n")
    await client.answer()
    assert handlers.seen[0]["authorization"] == "mine"
    assert "x-mesh-token" not in handlers.seen[0]


async def test_events_go_out_as_they_come_and_the_end_with_the_last(connect, handlers):
    client = await connect()
    await client.post("/events")
    status, fields = await client.head()
    assert (status, fields["content-type"], fields["transfer-encoding"]) == (200, "text/event-stream", "chunked")
    assert [await client.chunk(), await client.chunk()] == [handlers.chunk, handlers.chunk]
    assert handlers.ended == []
    handlers.go_on.set()
    assert await client.chunk() == b"data: [DONE]\n\n"
    assert handlers.ended == ["events", "closed"]
    assert await client.chunk() == b""
    await client.post("/json")
    assert (await client.answer())[0] == 429


async def test_a_client_that_goes_ends_the_handler(connect, handlers):
    client = await connect()
    await client.post("/events")
    await client.head()
    await handlers.reached.wait()
    client.writer.close()
    async with asyncio.timeout(5):
        while handlers.ended != ["closed"]:
            await asyncio.sleep(0.01)


async def test_a_client_that_does_not_read_is_waited_for_and_its_going_ends_the_handler(connect, handlers):
    handlers.chunk, handlers.chunks = b"x" * 100_000, 1000
    client = await connect()
    await client.post("/events")
    await asyncio.sleep(0.2)
    assert not handlers.reached.is_set()  # 100 MB were not put into memory
    client.writer.transport.abort()
    async with asyncio.timeout(5):
        while handlers.ended != ["closed"]:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_gets_everything(connect, handlers):
    handlers.chunk, handlers.chunks = b"x" * 100_000, 30
    handlers.go_on.set()
    client = await connect()
    await client.post("/events")
    await asyncio.sleep(0.1)
    _, _, body = await client.answer()
    assert len(body) == 3_000_000 + len(b"data: [DONE]\n\n")


async def test_an_abort_is_an_error_with_its_status(connect, handlers):
    handlers.fails = "abort"
    client = await connect()
    await client.post("/json")
    status, _, body = await client.answer()
    assert status == 403
    assert json.loads(body)["error"]["message"] == "not you"


async def test_a_defect_is_an_error_that_tells_nothing(connect, handlers):
    handlers.fails = "defect"
    client = await connect()
    await client.post("/json")
    status, _, body = await client.answer()
    assert status == 500
    assert b"secret" not in body
    assert json.loads(body)["error"]["code"] == "internal_error"


async def test_a_stream_that_fails_late_is_cut_off_without_its_end(connect, handlers):
    handlers.fails = "abort"
    handlers.go_on.set()
    client = await connect()
    await client.post("/events")
    await client.head()
    assert not (await client.closed()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /json HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 505),
        (b"POST /elsewhere HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /json HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n" + b"a" * 1001, 413),
        (b"POST /json HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * (64 << 10) + b"\r\n\r\n", 431),
        (b"POST /" + b"a" * (64 << 10) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    ],
)
async def test_what_is_not_a_request_of_ours_is_refused_and_the_connection_closed(connect, handlers, text, status):
    client = await connect()
    await client.send(text)
    found, _, body = await client.answer()
    assert found == status
    assert json.loads(body)["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert await client.closed() == b""
    assert handlers.bodies == []


async def test_a_second_request_before_the_first_was_answered_closes_the_connection(connect, handlers):
    client = await connect()
    one = b"POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    await client.send(one + one)
    assert b"200 OK" not in await client.closed()
    client = await connect()
    await client.send(one)
    await client.head()
    await client.send(one)
    await client.closed()
    async with asyncio.timeout(5):
        while "closed" not in handlers.ended:
            await asyncio.sleep(0.01)


async def test_a_request_that_does_not_arrive_and_a_connection_without_one_are_closed(connect, server):
    slow, idle, busy = await connect(), await connect(), await connect()
    await slow.send(b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na")
    await busy.post("/events")
    await busy.head()
    now_s = asyncio.get_running_loop().time()
    for connection in tuple(server._open):
        connection.close_if_late(now_s + 200, 130, 600)
    assert await slow.closed() == b""
    for connection in tuple(server._open):
        connection.close_if_late(now_s + 700, 130, 600)
    assert await idle.closed() == b""
    assert await busy.chunk()


async def test_more_connections_than_allowed_are_closed(connect):
    clients = [await connect() for _ in range(9)]
    await clients[0].post("/json")
    assert (await clients[0].answer())[0] == 429
    assert await clients[8].closed() == b""


async def test_the_drain_lets_an_answer_end_and_closes_what_waits(handlers, routes, target):
    server = HttpServer(handlers.table(), routes)
    async with server.serving(target, grace_s=5.0):
        path = target.removeprefix("unix:")
        busy, idle = [Client(*await asyncio.open_unix_connection(path)) for _ in range(2)]
        await busy.post("/events")
        await busy.head()
        await handlers.reached.wait()
        asyncio.get_running_loop().call_later(0.1, handlers.go_on.set)
    assert (await busy.closed()).endswith(b"0\r\n\r\n")
    assert await idle.closed() == b""
    busy.writer.close()
    idle.writer.close()
    assert handlers.ended == ["events", "closed"]
    with pytest.raises(ConnectionError):
        await asyncio.open_unix_connection(path)


async def test_the_drain_ends_what_does_not_end(handlers, routes, target):
    server = HttpServer(handlers.table(), routes)
    async with server.serving(target, grace_s=0.05):
        client = Client(*await asyncio.open_unix_connection(target.removeprefix("unix:")))
        await client.post("/events")
        await client.head()
    assert handlers.ended == ["closed"]
    await client.closed()
    client.writer.close()


async def test_an_answer_during_the_drain_says_that_the_connection_closes(connect, server, handlers):
    client = await connect()
    handlers.go_on.set()
    await client.send(b"POST /json HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    _, fields, _ = await client.answer()
    assert fields["connection"] == "close"
    assert await client.closed() == b""


async def test_an_address_that_cannot_be_had_is_told(handlers, routes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot listen on unix:"):
        await HttpServer(handlers.table(), routes).listen(f"unix:{tmp_path}/file/http.sock")


async def test_the_socket_is_its_owners_alone(server, target):
    assert Path(target.removeprefix("unix:")).stat().st_mode & 0o777 == 0o600
