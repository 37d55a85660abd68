"""HTTP to an upstream: one pool of kept-alive connections a model, deadlines, size limits and errors of the mesh.

Redirects are refused: the secret goes where the manifest says and nowhere else. Compression is not asked for: it would
hold tokens back. All limits on time are kept by one lazy timer an answer, which costs nothing while data flows.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_models.providers.upstream_errors import connection_lost, garbage, refused, timed_out, unreachable
from moltbot_models.tls import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_models.generation import EmbeddingRequest, GenerationRequest, ScoringRequest
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 16 << 20
"""Of an answer that is read whole."""
MAX_STREAM_BYTES = 128 << 20
"""Of a streamed answer: a chunk of one token is about 200 bytes."""
_MAX_ERROR_BYTES = 64 << 10
_MAX_CONNECTIONS = 1024
# Below the 5 s after which the common Python servers close an idle connection, so that they rarely close one in use.
_KEEPALIVE_S = 4.0
_STALE_S = 0.1
_LARGE_BYTES = 256 << 10
_DRAIN_S = 0.1


class HttpClient:
    """Connections to one upstream, opened when first used.

    Args:
        manifest: Says where, with which secret and how long to wait.
        context: Where the secret is looked up.

    Raises:
        InvalidArgument: The endpoint is not a URL.
        FailedPrecondition: The secret is not there, or a certificate cannot be read.
    """

    def __init__(self, manifest: Manifest, context: UpstreamContext) -> None:
        self.manifest = manifest
        self.socket, self.base = endpoint_of(manifest)
        self._auth = manifest.auth.headers(context.environ)
        self._files = TlsFiles(manifest.id, manifest.tls) if manifest.tls.encrypts else None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def url(self, suffix: str = "") -> URL:
        """The endpoint with a suffix, ready to be asked."""
        return URL(self.base + suffix, encoded=True)

    @property
    def tls(self) -> dict[str, Any]:
        """What each request says of TLS; it has connections of its own when the certificates were renewed."""
        if self._files is None:
            return {}
        return {"ssl": self._files.current().context, "server_hostname": self._files.server_name or None}

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session; made in the event loop that asks first."""
        if self._closed:
            raise Unavailable(f"{self.manifest.id}: the upstream was closed", reason="UPSTREAM_UNAVAILABLE")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self.socket, limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S)
                if self.socket
                else aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=30),
                headers={**self._auth, "Accept-Encoding": "identity", "User-Agent": "moltbot"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                # WebSocket handshakes follow redirects unless something objects.
                middlewares=(_refuse_redirect,),
            )
        return self._session

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> HttpAnswer:
        """Ask, and wait for the head of a successful answer.

        Args:
            url: Made by `url`.
            body: JSON.
            headers: Of this request; see `trace_headers`.
            timeout_s: Until the first byte of the answer's body.

        Raises:
            MoltbotError: As `Upstream.generate`.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        response = await self._ask(url, body, headers, deadline_s, timeout_s)
        answer = HttpAnswer(self.manifest, response, deadline_s, timeout_s)
        if response.status == 200 and "Content-Encoding" not in response.headers:
            return answer
        with contextlib.closing(answer):
            if response.status < 300:
                raise garbage(self.manifest.id, f"HTTP {response.status} or a content encoding that was not asked for")
            text = b""
            with contextlib.suppress(Unavailable):
                text = await answer.read_all(_MAX_ERROR_BYTES)
        raise refused(self.manifest.id, response.status, text, response.headers.get("Retry-After", ""))

    async def _ask(
        self, url: URL, body: bytes, headers: Mapping[str, str], deadline_s: float, timeout_s: float
    ) -> aiohttp.ClientResponse:
        session, clock = self.session, asyncio.get_running_loop().time
        asked_s, retried = clock(), False
        while True:
            try:
                # What is large goes out in pieces, and is not copied whole into the transport.
                data = body if len(body) <= _LARGE_BYTES else io.BytesIO(body)
                async with asyncio.timeout_at(deadline_s):
                    return await session.post(url, data=data, headers=headers, allow_redirects=False, **self.tls)
            except TimeoutError as error:
                if isinstance(error, aiohttp.ClientError):
                    raise unreachable(self.manifest.id, f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
                raise timed_out(self.manifest.id, "the first token", timeout_s) from None
            except MoltbotError:
                raise
            except aiohttp.ClientSSLError:
                raise unreachable(self.manifest.id, "no TLS: its certificate does not prove it; see `tls`") from None
            except aiohttp.ClientConnectorError as error:
                raise unreachable(self.manifest.id, f"no connection: {error.os_error.strerror or 'refused'}") from None
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # A kept-alive connection that the upstream closed just now fails at once; a new one tells the truth.
                if retried or clock() - asked_s > _STALE_S:
                    raise connection_lost(self.manifest.id) from None
                retried = True
            except (aiohttp.ClientError, ValueError) as error:
                raise garbage(self.manifest.id, f"not HTTP ({type(error).__name__})") from None

    async def probe(self, url: URL) -> None:
        """Ask `GET url`: any answer but a server error says that somebody is there.

        Raises:
            Unavailable: Nobody is, or it is not well, or it refuses the mesh's secret.
        """
        try:
            async with (
                asyncio.timeout(CONNECT_TIMEOUT_S),
                self.session.get(url, allow_redirects=False, **self.tls) as response,
            ):
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(self.manifest.id, f"probe failed ({type(error).__name__})") from None
        if status in {401, 403} or status >= 500:
            raise refused(self.manifest.id, status, b"", "")

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class HttpAnswer:
    """The body of one successful answer."""

    __slots__ = ("_deadline_s", "_expired", "_loop", "_manifest", "_response", "_size", "_timer", "_waited", "_within")

    def __init__(
        self, manifest: Manifest, response: aiohttp.ClientResponse, deadline_s: float, timeout_s: float
    ) -> None:
        self._manifest, self._response = manifest, response
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s: float | None = deadline_s
        self._within, self._waited = timeout_s, "the first token"
        self._expired = False
        self._size = 0

    @property
    def model(self) -> str:
        """The manifest's id, for errors."""
        return self._manifest.id

    @property
    def content_type(self) -> str:
        """The media type, without parameters."""
        return self._response.content_type

    async def read(self, max_bytes: int = MAX_STREAM_BYTES) -> bytes:
        """Everything that has come; waits if nothing has. Empty at the end.

        Raises:
            Unavailable: Silence for too long, the connection broke, or the answer is larger than `max_bytes`.
        """
        content, clock = self._response.content, self._loop.time
        if self._deadline_s is None:
            self._deadline_s = clock() + self._within
        if self._timer is not None and self._timer.when() > self._deadline_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and not content.at_eof():
            self._timer = self._loop.call_at(self._deadline_s, self._look)
        try:
            data = await content.readany()
        except aiohttp.ClientError:
            if self._expired:
                raise timed_out(self._manifest.id, self._waited, self._within) from None
            raise connection_lost(self._manifest.id) from None
        # The consumer's time is not the upstream's: the clock stands still until the next read.
        self._deadline_s = None
        self._within, self._waited = self._manifest.idle_timeout_s, "the next token"
        self._size += len(data)
        if self._size > max_bytes:
            raise garbage(self._manifest.id, f"it is larger than {max_bytes} bytes")
        return data

    async def read_all(self, max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
        """The whole body.

        Raises:
            Unavailable: As `read`.
        """
        parts: list[bytes] = []
        while data := await self.read(max_bytes):
            parts.append(data)
            if self._response.content.at_eof():
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def at_end(self) -> bool:
        """Whether the whole body was read."""
        return self._response.content.at_eof()

    async def finish(self) -> None:
        """Wait a moment for the end of a body whose content is complete, so that its connection can be used again."""
        content = self._response.content
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            if not content.at_eof():
                async with asyncio.timeout(_DRAIN_S):
                    await content.readany()

    def _look(self) -> None:
        due_s = self._loop.time() + self._within if self._deadline_s is None else self._deadline_s
        if self._loop.time() < due_s:
            self._timer = self._loop.call_at(due_s, self._look)
        else:
            self._expired = True
            self._response.close()

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, close it at once otherwise."""
        if self._timer is not None:
            self._timer.cancel()
        self._response.close()


async def _refuse_redirect(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise Unavailable(
            f"the upstream redirects (HTTP {response.status}), which is refused; give its final address as endpoint",
            reason="UPSTREAM_ERROR",
        )
    return response


def endpoint_of(manifest: Manifest) -> tuple[str, str]:
    """The Unix socket of an endpoint (empty for TCP) and its base URL without a slash at the end.

    Raises:
        InvalidArgument: It is neither a URL nor `unix:/path.sock:/base`.
    """
    endpoint = manifest.endpoint
    if endpoint.startswith("unix:"):
        socket, _, base = endpoint[len("unix:") :].partition(":")
        if socket.startswith("/") and (not base or base.startswith("/")):
            return socket, "http://localhost" + base.rstrip("/")
    elif urlsplit(endpoint).hostname:
        return "", endpoint.rstrip("/")
    raise InvalidArgument(
        f"model {manifest.id}: endpoint must be a URL (http://host:8000/v1) or a Unix socket (unix:/path.sock:/v1)"
    )


def trace_headers(request: GenerationRequest | EmbeddingRequest | ScoringRequest, accept: str) -> dict[str, str]:
    """Headers of one request: JSON, its id and its trace."""
    headers = {"Content-Type": "application/json", "Accept": accept}
    if request.request_id and request.request_id.isascii() and request.request_id.isprintable():
        headers["X-Request-Id"] = request.request_id
    if request.traceparent:
        headers["Traceparent"] = request.traceparent
    return headers
