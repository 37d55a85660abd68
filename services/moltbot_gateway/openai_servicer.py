"""OpenAIService: OpenAI's HTTP API over google.api.HttpBody. Wire to core and back, nothing else.

Errors are answers here: an OpenAI error object with `x-mesh-status`, which Envoy turns into `:status`. After the first
chunk of a stream the status is gone, so an error is sent in-band as `data: {"error": …}`.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from google.api.httpbody_pb2 import HttpBody
from moltbot.gateway.v1 import openai_pb2, openai_pb2_grpc

from moltbot_gateway import openai_request, openai_response, scoring_request, scoring_response
from moltbot_gateway.callers import as_shown, read_metadata
from moltbot_gateway.coalesce import Coalescer
from moltbot_gateway.collect import Collected
from moltbot_gateway.json_body import end_user
from moltbot_gateway.openai_errors import error_body, http_status
from moltbot_gateway.openai_response import ChatChunks, CompletionChunks
from moltbot_mesh.errors import InvalidArgument, MoltbotError, NotFound
from moltbot_mesh.headers import MESH_STATUS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from moltbot_gateway.ask import Ask
    from moltbot_gateway.callers import Callers
    from moltbot_gateway.catalogue import Catalogue
    from moltbot_gateway.chat import Answerer
    from moltbot_gateway.exchange import Exchange
    from moltbot_gateway.intake import Intake
    from moltbot_gateway.openai_request import StreamWish
    from moltbot_gateway.settings import GatewaySettings

    Answer = AsyncGenerator[HttpBody]
    Respond = Callable[[Exchange, bytes, Any], Answer]


class OpenAIServicer(openai_pb2_grpc.OpenAIServiceServicer):
    """See `protos/moltbot/gateway/v1/openai.proto`."""

    def __init__(
        self, settings: GatewaySettings, callers: Callers, intake: Intake, answerer: Answerer, catalogue: Catalogue
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._intake = intake
        self._answerer = answerer
        self._catalogue = catalogue

    def ChatCompletions(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """Answer a conversation."""
        return self._exchange(request, context, self._chat)

    def Completions(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """Continue a text."""
        return self._exchange(request, context, self._completion)

    def Embeddings(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """Embed texts."""
        return self._exchange(request, context, self._embeddings)

    def Rerank(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """Rank documents."""
        return self._exchange(request, context, self._rerank)

    def Classify(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """Classify texts."""
        return self._exchange(request, context, self._classify)

    def ListModels(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """List models."""
        return self._exchange(request, context, self._models)

    def RetrieveModel(self, request: openai_pb2.RetrieveModelRequest, context: Any) -> Answer:  # noqa: N802
        """Describe a model."""

        async def respond(exchange: Exchange, _: bytes, context: Any) -> Answer:
            found = await self._catalogue.model(exchange.tenant, request.model)
            exchange.model = request.model
            yield await self._json(exchange, context, openai_response.json_body(found))

        return self._exchange(HttpBody(), context, respond)

    def Refuse(self, request: HttpBody, context: Any) -> Answer:  # noqa: N802 - gRPC's name
        """Refuse an unknown route."""

        async def respond(exchange: Exchange, _: bytes, __: Any) -> Answer:
            message = f"no such route: {exchange.caller.action}; the API reference lists them"
            raise NotFound(message, reason="ROUTE_NOT_FOUND")
            yield HttpBody()  # makes this an async generator

        return self._exchange(request, context, respond)

    async def _exchange(self, request: HttpBody, context: Any, respond: Respond) -> Answer:
        """Recognise the caller, answer, and record what happened, once."""
        metadata = read_metadata(context)
        exchange = self._callers.begin(metadata)
        started = False
        try:
            with self._callers.recording(exchange):
                await self._callers.recognise(exchange, metadata)
                body = request.data
                self._check_size(body)
                await self._intake.commit(exchange, body, end_user)
                answers = respond(exchange, body, context)
                del body  # an answer may take minutes, and a body with images has megabytes
                async with contextlib.aclosing(answers):
                    async for answer in answers:
                        started = True
                        yield answer
        except Exception as error:  # noqa: BLE001 - the boundary where every error is translated
            shown = as_shown(error, exchange)
            if started:
                yield HttpBody(content_type=openai_response.EVENTS, data=b"data: " + error_body(shown) + b"\n\n")
            else:
                await self._send_headers(exchange, context, shown)
                yield HttpBody(content_type=openai_response.JSON, data=error_body(shown))

    def _check_size(self, body: bytes) -> None:
        limit = self._settings.body_limit_bytes
        if len(body) > limit:
            raise InvalidArgument(
                f"the body has {len(body)} bytes; at most {limit} are taken", reason="REQUEST_TOO_LARGE"
            )

    async def _send_headers(self, exchange: Exchange, context: Any, error: MoltbotError | None = None) -> None:
        headers = [
            ("x-request-id", exchange.caller.request_id),
            ("x-moltbot-receipt", exchange.audit_id),
        ]
        if exchange.model:
            headers.append(("x-moltbot-model", exchange.model))
        if error is not None:
            headers.append((MESH_STATUS, str(http_status(error))))
            if error.retry_after_s is not None:
                headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
        await context.send_initial_metadata(headers)

    async def _json(self, exchange: Exchange, context: Any, body: bytes) -> HttpBody:
        exchange.http_status = 200
        await self._send_headers(exchange, context)
        return HttpBody(content_type=openai_response.JSON, data=body)

    async def _chat(self, exchange: Exchange, body: bytes, context: Any) -> Answer:
        ask, wish = await self._intake.read(len(body), openai_request.chat, body, self._settings.media_limits)
        del body
        await self._intake.note(exchange, ask.messages)
        if wish.stream:
            async for event in self._stream(exchange, ask, wish, ChatChunks, context):
                yield event
            return
        found = await Collected.of(self._answerer.answer(exchange, ask, stream=False))
        yield await self._json(
            exchange,
            context,
            openai_response.chat_body(
                exchange.caller.request_id,
                exchange.model,
                found.text,
                found.tool_calls,
                found.logprobs,
                found.finish_reason,
                exchange.usage,
                found.reasoning,
            ),
        )

    async def _completion(self, exchange: Exchange, body: bytes, context: Any) -> Answer:
        ask, wish = openai_request.completion(body)
        if wish.stream:
            async for event in self._stream(exchange, ask, wish, CompletionChunks, context):
                yield event
            return
        found = await Collected.of(self._answerer.answer(exchange, ask, stream=False))
        yield await self._json(
            exchange,
            context,
            openai_response.completion_body(
                exchange.caller.request_id,
                exchange.model,
                found.text,
                found.logprobs,
                found.finish_reason,
                exchange.usage,
            ),
        )

    async def _embeddings(self, exchange: Exchange, body: bytes, context: Any) -> Answer:
        ask, as_base64 = openai_request.embeddings(body)
        found = await self._answerer.embed(exchange, ask)
        encoded = openai_response.embeddings_body(exchange.model, found, as_base64=as_base64)
        yield await self._json(exchange, context, encoded)

    async def _rerank(self, exchange: Exchange, body: bytes, context: Any) -> Answer:
        ask, wish = scoring_request.ranking(body)
        found = await self._answerer.score(exchange, ask)
        yield await self._json(exchange, context, scoring_response.ranking_body(exchange, ask, wish, found))

    async def _classify(self, exchange: Exchange, body: bytes, context: Any) -> Answer:
        found = await self._answerer.score(exchange, scoring_request.classification(body))
        yield await self._json(exchange, context, scoring_response.classification_body(exchange, found))

    async def _models(self, exchange: Exchange, _: bytes, context: Any) -> Answer:
        body = openai_response.models_body(await self._catalogue.models(exchange.tenant))
        yield await self._json(exchange, context, body)

    async def _stream(
        self, exchange: Exchange, ask: Ask, wish: StreamWish, kind: type[ChatChunks | CompletionChunks], context: Any
    ) -> Answer:
        answer = self._answerer.answer(exchange, ask, stream=True)
        batches = Coalescer(answer, self._settings.stream_interval_ms / 1000).batches()
        chunks: ChatChunks | CompletionChunks | None = None
        async with contextlib.aclosing(batches):
            async for batch in batches:
                data: list[bytes] = []
                end, begins = b"", chunks is None
                if chunks is None:
                    chunks = kind(exchange.caller.request_id, exchange.model, include_usage=wish.include_usage)
                    exchange.http_status = 200
                    await self._send_headers(exchange, context)
                    data.append(chunks.first())
                for deltas in batch:
                    data.extend(chunks.chunk(delta) for delta in deltas)
                    if deltas[-1].finish_reason is not None:
                        if wish.include_usage:
                            data.append(chunks.usage(exchange.usage))
                        end = openai_response.DONE
                if begins and end:  # Envoy takes the content type from the first body, which goes out at once
                    yield HttpBody(content_type=openai_response.EVENTS, data=b"".join(data))
                    data.clear()
                joined = b"".join((*data, end))
                if joined:
                    # The end goes without one, together with the call's: by then the answer is recorded, so that a
                    # client that has read `[DONE]` finds it in the log even if this process is killed.
                    yield HttpBody(content_type="" if end else openai_response.EVENTS, data=joined)
