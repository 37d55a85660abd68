"""Upstreams behind a WebSocket: one connection a request, opened for it and closed after it.

The mesh sends one text frame, the body of the OpenAI API's chat/completions (or completions, when there is a prompt)
with two more fields: `id`, the request's id, and `type`, `generate` or `embed`; for `embed` the body is that of
embeddings. The upstream answers with text frames, each of them either

- a JSON object: `{"delta": "…"}` or `{"text": "…"}` with the next piece, any form of `loose_answer`, or a chunk of the
  OpenAI API; the last one has `finish_reason` (and `usage`, if the upstream counts). `{"error": {"code": 429, …}}` ends
  the answer with an error, its numbers are HTTP's; or
- plain text, the next piece; then closing with code 1000 ends the answer.

For `embed` one frame, the OpenAI API's list, answers. Binary frames are refused. If the client leaves, the connection
is closed at once and the upstream should stop. The secret travels in a header of the handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from moltbot_mesh.errors import MoltbotError
from moltbot_models.generation import Delta
from moltbot_models.providers.http import CONNECT_TIMEOUT_S, MAX_STREAM_BYTES, HttpClient, trace_headers
from moltbot_models.providers.loose_answer import LooseReader
from moltbot_models.providers.openai_answer import MAX_EMBEDDINGS_BYTES, embeddings
from moltbot_models.providers.openai_request import chat_body, completion_body, embedding_body
from moltbot_models.providers.sse import MAX_EVENT_BYTES
from moltbot_models.providers.upstream_errors import (
    connection_lost,
    garbage,
    not_offered,
    refuse_media,
    refused,
    timed_out,
    unreachable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_models.generation import EmbeddingRequest, Embeddings, GenerationRequest, Scores, ScoringRequest
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext

    Socket = aiohttp.ClientWebSocketResponse[bool]

_NORMAL_CLOSURE = 1000
_CLOSING_S = 0.2
_WAITING = aiohttp.ClientWSTimeout(ws_close=0.05)  # pyright: ignore[reportCallIssue] - made by attrs
_CLOSED = frozenset({aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED})


class WebSocketUpstream:
    """One model behind a WebSocket."""

    def __init__(self, manifest: Manifest, context: UpstreamContext) -> None:
        self._manifest = manifest
        self._http = HttpClient(manifest, context)
        self._url = self._http.url()

    async def generate(
        self,
        request: GenerationRequest,
        *,
        stream: bool = True,
    ) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Generate text; see `Upstream.generate`."""
        refuse_media(self._manifest.id, "websocket", request)
        if request.prompt is None:
            body = chat_body(request, stream=stream)
        else:
            body = completion_body(request, request.prompt, stream=stream)
        limit_s, waited = self._manifest.timeout_s, "the first token"
        deadline_s = asyncio.get_running_loop().time() + limit_s
        socket = await self._ask(request, "generate", body, MAX_EVENT_BYTES)
        reader, plain, size = LooseReader(self._manifest.id), False, 0
        try:
            while True:
                text = await self._frame(socket, waited, limit_s, deadline_s)
                if text is None:
                    if not plain:
                        raise garbage(self._manifest.id, "the WebSocket was closed before the model had finished")
                    yield (Delta(finish_reason="stop"),)
                    return
                size += len(text)
                if size > MAX_STREAM_BYTES:
                    raise garbage(self._manifest.id, f"it is larger than {MAX_STREAM_BYTES} bytes")
                if text.startswith("{"):
                    deltas = reader.take(text.encode())
                    if reader.ended:
                        yield (*deltas, reader.last())
                        return
                else:
                    plain, deltas = True, ((Delta(text),) if text else ())
                if deltas:
                    yield deltas
                limit_s, waited = self._manifest.idle_timeout_s, "the next token"
                deadline_s = asyncio.get_running_loop().time() + limit_s
        finally:
            await _drop(socket)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed texts; see `Upstream.embed`."""
        limit_s = self._manifest.timeout_s
        deadline_s = asyncio.get_running_loop().time() + limit_s
        socket = await self._ask(request, "embed", embedding_body(request), MAX_EMBEDDINGS_BYTES)
        try:
            text = await self._frame(socket, "the vectors", limit_s, deadline_s)
        finally:
            await _drop(socket)
        if text is None:
            raise garbage(self._manifest.id, "the WebSocket was closed before the vectors came")
        return embeddings(self._manifest.id, text.encode(), len(request.inputs))

    async def score(self, request: ScoringRequest) -> Scores:
        """Refuse; see `Upstream.score`."""
        raise not_offered(request.model, "websocket", "scores")

    async def probe(self) -> None:
        """Open a connection and close it."""
        await _drop(await self._connect({}, MAX_EVENT_BYTES))

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def _ask(
        self, request: GenerationRequest | EmbeddingRequest, kind: str, body: dict[str, Any], max_frame_bytes: int
    ) -> Socket:
        headers = trace_headers(request, "application/json")
        del headers["Content-Type"]
        socket = await self._connect(headers, max_frame_bytes)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                frame = msgspec.json.encode({"type": kind, "id": request.request_id} | body)
                await socket.send_str(frame.decode())
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            await _drop(socket)
            raise connection_lost(self._manifest.id) from None
        except BaseException:
            await _drop(socket)
            raise
        return socket

    async def _connect(self, headers: dict[str, str], max_frame_bytes: int) -> Socket:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._http.session.ws_connect(
                    self._url,
                    headers=headers,
                    max_msg_size=max_frame_bytes,
                    autoclose=False,
                    timeout=_WAITING,
                    **self._http.tls,
                )
        except MoltbotError:
            raise
        except aiohttp.WSServerHandshakeError as error:
            after = error.headers.get("Retry-After", "") if error.headers else ""
            raise refused(self._manifest.id, error.status, b"", after) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(self._manifest.id, f"no WebSocket ({type(error).__name__})") from None

    async def _frame(self, socket: Socket, waited: str, limit_s: float, deadline_s: float) -> str | None:
        """The next text frame; `None` after a normal closing."""
        try:
            async with asyncio.timeout_at(deadline_s):
                message = await socket.receive()
        except TimeoutError:
            raise timed_out(self._manifest.id, waited, limit_s) from None
        if message.type is aiohttp.WSMsgType.TEXT:
            return message.data
        if message.type in _CLOSED and socket.close_code == _NORMAL_CLOSURE:
            return None
        if message.type is aiohttp.WSMsgType.BINARY:
            raise garbage(self._manifest.id, "a binary frame")
        if socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
            raise garbage(self._manifest.id, "a frame larger than the limit")
        raise connection_lost(self._manifest.id)


async def _drop(socket: Socket) -> None:
    # Says goodbye and does not wait for the other side's: the upstream is to stop now.
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
        async with asyncio.timeout(_CLOSING_S):
            await socket.close()


def open_upstream(manifest: Manifest, context: UpstreamContext) -> WebSocketUpstream:
    """Open an upstream behind a WebSocket.

    Raises:
        InvalidArgument: The endpoint is not an address.
        FailedPrecondition: The secret is not there.
    """
    return WebSocketUpstream(manifest, context)
