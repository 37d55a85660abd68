"""Upstreams that take a POST and answer with text: the endpoint is the full URL, its path says what is sent.

| path ends with | body |
|---|---|
| `/chat/completions` | the OpenAI API's, with messages |
| `/generate`, `/generate_stream`, or nothing | TGI's: `{"inputs", "parameters", "stream"}` |
| anything else, such as `/v1/completions` | the OpenAI API's, with a prompt |

A conversation becomes a prompt as `Role: content` lines that end with `Assistant:`; generation then also stops before
a `User:` line. Tools need `/chat/completions`. The answer may be JSON, server-sent events or JSON lines, told apart by
its media type, in any form of `loose_answer`. A model of type `embedding` gets `{"model", "input"}` and answers as the
OpenAI API does, or with a bare list of vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.generation import Embeddings, Usage
from moltbot_models.providers.http import HttpClient, trace_headers
from moltbot_models.providers.loose_answer import LooseReader
from moltbot_models.providers.openai_answer import MAX_EMBEDDINGS_BYTES, embeddings
from moltbot_models.providers.openai_request import chat_body, completion_body, embedding_body, flattened
from moltbot_models.providers.pace import answer_timeout_s
from moltbot_models.providers.sse import MAX_EVENT_BYTES, SseDecoder
from moltbot_models.providers.upstream_errors import garbage, not_offered, refuse_media

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_models.generation import Delta, EmbeddingRequest, GenerationRequest, Scores, ScoringRequest
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext
    from moltbot_models.providers.http import HttpAnswer
    from moltbot_models.providers.openai_request import Body

_SSE = "text/event-stream"
_JSON_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/stream+json"})
_NEXT_TURN = "\nUser:"
_VECTORS = msgspec.json.Decoder(tuple[tuple[float, ...], ...])


class GenericHttpUpstream:
    """One model behind one URL."""

    def __init__(self, manifest: Manifest, context: UpstreamContext) -> None:
        self._manifest = manifest
        self._http = HttpClient(manifest, context)
        self._url = self._http.url()
        self._path = self._url.path.rstrip("/")

    async def generate(
        self, request: GenerationRequest, *, stream: bool = True
    ) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Generate text; see `Upstream.generate`."""
        refuse_media(self._manifest.id, "generic_http", request)
        answer = await self._http.post(
            self._url,
            msgspec.json.encode(self._body(request, stream=stream)),
            trace_headers(request, f"{_SSE}, application/x-ndjson, application/json"),
            timeout_s=self._manifest.timeout_s if stream else answer_timeout_s(self._manifest, request),
        )
        try:
            reader = LooseReader(self._manifest.id)
            split = _splitter(answer.content_type)
            if split is None:
                yield (*reader.take(await answer.read_all()), reader.last())
                return
            while not reader.ended:
                data = await answer.read()
                deltas = [delta for piece in _pieces(split, data, answer) for delta in reader.take(piece)]
                if not data:
                    yield (*deltas, reader.last())
                    return
                if deltas:
                    yield tuple(deltas)
            await answer.finish()
            yield (reader.last(),)
        finally:
            answer.close()

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed texts; see `Upstream.embed`."""
        answer = await self._http.post(
            self._url,
            msgspec.json.encode(embedding_body(request)),
            trace_headers(request, "application/json"),
            timeout_s=self._manifest.timeout_s,
        )
        try:
            body = await answer.read_all(MAX_EMBEDDINGS_BYTES)
        finally:
            answer.close()
        if not body.lstrip().startswith(b"["):
            return embeddings(self._manifest.id, body, len(request.inputs))
        try:
            vectors = _VECTORS.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise garbage(self._manifest.id, f"not a list of vectors ({type(error).__name__})") from None
        if len(vectors) != len(request.inputs) or len({len(vector) for vector in vectors}) > 1:
            raise garbage(self._manifest.id, f"it does not hold one vector for each of {len(request.inputs)} inputs")
        return Embeddings(vectors, Usage())

    async def score(self, request: ScoringRequest) -> Scores:
        """Refuse; see `Upstream.score`."""
        raise not_offered(request.model, "generic_http", "scores")

    async def probe(self) -> None:
        """Ask `GET` of the endpoint: even "method not allowed" says that somebody is there."""
        await self._http.probe(self._url)

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()

    def _body(self, request: GenerationRequest, *, stream: bool) -> Body:
        if self._path.endswith("/chat/completions") and request.prompt is None:
            return chat_body(request, stream=stream)
        if request.response_format is not None:
            raise InvalidArgument(
                f"{self._manifest.id}: this upstream takes plain text and no response_format; ask a model of another "
                "provider"
            )
        if request.tools and request.tool_choice != "none":
            raise InvalidArgument(
                f"{self._manifest.id}: this upstream takes plain text and has no tools; ask a model of another provider"
            )
        talk = request.prompt is None
        prompt = flattened(request.messages) if request.prompt is None else request.prompt
        body = completion_body(request, prompt, stream=stream)
        if talk:
            body["stop"] = [*request.sampling.stop, _NEXT_TURN]
        if self._path and not self._path.endswith(("/generate", "/generate_stream")):
            return body
        names = {"max_tokens": "max_new_tokens"}
        apart = {"model", "prompt", "stream", "stream_options", "logprobs"}
        parameters = {names.get(key, key): value for key, value in body.items() if key not in apart}
        return {"inputs": prompt, "parameters": parameters, "stream": stream}


class LineSplitter:
    """Bytes in any pieces become the lines that are not empty."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are now complete.

        Raises:
            ValueError: A line is larger than `MAX_EVENT_BYTES`.
        """
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > MAX_EVENT_BYTES:
            raise ValueError(f"a line is larger than {MAX_EVENT_BYTES} bytes")
        return [line for line in lines if line.strip()]

    def rest(self) -> list[bytes]:
        """A last line without its end."""
        return [self._pending] if self._pending.strip() else []


def _splitter(content_type: str) -> SseDecoder | LineSplitter | None:
    if content_type == _SSE:
        return SseDecoder()
    return LineSplitter() if content_type in _JSON_LINES else None


def _pieces(split: SseDecoder | LineSplitter, data: bytes, answer: HttpAnswer) -> list[bytes]:
    try:
        return split.feed(data) if data else split.rest()
    except ValueError as error:
        raise garbage(answer.model, str(error)) from None


def open_upstream(manifest: Manifest, context: UpstreamContext) -> GenericHttpUpstream:
    """Open an upstream behind one URL.

    Raises:
        InvalidArgument: The endpoint is not an address.
        FailedPrecondition: The secret is not there.
    """
    return GenericHttpUpstream(manifest, context)
