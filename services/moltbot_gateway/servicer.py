"""GatewayService: the typed API. Wire to core and back, nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from moltbot.gateway.v1 import gateway_pb2 as pb
from moltbot.gateway.v1 import gateway_pb2_grpc

from moltbot_gateway import typed_request
from moltbot_gateway.ask import EmbedAsk, ScoreAsk
from moltbot_gateway.callers import as_shown, read_metadata
from moltbot_gateway.coalesce import Coalescer
from moltbot_gateway.collect import Collected
from moltbot_gateway.ranking import best, likeliest
from moltbot_mesh.paging import page_of
from moltbot_models.manifest import taken
from moltbot_models.manifest_wire import TASKS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from google.protobuf.message import Message as ProtoMessage

    from moltbot_gateway.ask import Ask
    from moltbot_gateway.callers import Callers
    from moltbot_gateway.catalogue import Catalogue
    from moltbot_gateway.chat import Answerer
    from moltbot_gateway.exchange import Exchange
    from moltbot_gateway.intake import Intake
    from moltbot_gateway.settings import GatewaySettings
    from moltbot_models.generation import Delta, TokenLogprob, Usage

_FINISH = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
}


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """See `protos/moltbot/gateway/v1/gateway.proto`."""

    def __init__(
        self, settings: GatewaySettings, callers: Callers, intake: Intake, answerer: Answerer, catalogue: Catalogue
    ) -> None:
        self._interval_s = settings.stream_interval_ms / 1000
        self._media_limits = settings.media_limits
        self._callers = callers
        self._intake = intake
        self._answerer = answerer
        self._catalogue = catalogue

    @contextlib.asynccontextmanager
    async def _exchange(self, request: ProtoMessage, context: Any) -> AsyncGenerator[Exchange]:
        """Recognise the caller and record what happens, once; errors pass to the interceptor."""
        metadata = read_metadata(context)
        exchange = self._callers.begin(metadata)
        with self._callers.recording(exchange):
            await self._callers.recognise(exchange, metadata)
            data = await self._intake.read(request.ByteSize(), _as_json, request)
            await self._intake.commit(exchange, data, lambda _: typed_request.end_user(request))
            try:
                yield exchange
            except Exception as error:
                shown = as_shown(error, exchange)
                if shown is error:
                    raise
                raise shown from error

    async def _ask(self, exchange: Exchange, request: pb.ChatRequest) -> Ask:
        ask = typed_request.chat(request, self._media_limits)
        await self._intake.note(exchange, ask.messages)
        return ask

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:  # noqa: N802 - gRPC's name
        """Answer a conversation."""
        async with self._exchange(request, context) as exchange:
            ask = await self._ask(exchange, request)
            found = await Collected.of(self._answerer.answer(exchange, ask, stream=False))
            calls = [pb.ToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in found.tool_calls]
            return pb.ChatResponse(
                message=pb.Message(
                    role=pb.ROLE_ASSISTANT, content=found.text, tool_calls=calls, reasoning=found.reasoning
                ),
                finish_reason=_FINISH.get(found.finish_reason, pb.FINISH_REASON_STOP),
                usage=_usage(exchange.usage),
                logprobs=_logprobs(found.logprobs),
                receipt=_receipt(exchange),
            )

    async def StreamChat(  # noqa: N802 - gRPC's name
        self, request: pb.StreamChatRequest, context: Any
    ) -> AsyncGenerator[pb.StreamChatResponse]:
        """Answer a conversation piece by piece."""
        async with self._exchange(request, context) as exchange:
            answer = self._answerer.answer(exchange, await self._ask(exchange, request.chat), stream=True)
            first = True
            async with contextlib.aclosing(Coalescer(answer, self._interval_s).batches()) as batches:
                async for batch in batches:
                    deltas = [delta for piece in batch for delta in piece]
                    response = pb.StreamChatResponse(
                        content="".join(delta.text for delta in deltas),
                        reasoning="".join(delta.reasoning for delta in deltas),
                        tool_calls=[
                            pb.ToolCallDelta(index=c.index, id=c.id, name=c.name, arguments=c.arguments)
                            for delta in deltas
                            for c in delta.tool_calls
                        ],
                        logprobs=_logprobs(entry for delta in deltas for entry in delta.logprobs),
                    )
                    _end(response, deltas[-1], exchange)
                    if first:
                        response.receipt.CopyFrom(_receipt(exchange))
                        first = False
                    yield response

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:  # noqa: N802
        """Continue a text."""
        async with self._exchange(request, context) as exchange:
            found = await Collected.of(self._answerer.answer(exchange, typed_request.completion(request), stream=False))
            return pb.CompleteResponse(
                text=found.text,
                finish_reason=_FINISH.get(found.finish_reason, pb.FINISH_REASON_STOP),
                usage=_usage(exchange.usage),
                logprobs=_logprobs(found.logprobs),
                receipt=_receipt(exchange),
            )

    async def StreamComplete(  # noqa: N802 - gRPC's name
        self, request: pb.StreamCompleteRequest, context: Any
    ) -> AsyncGenerator[pb.StreamCompleteResponse]:
        """Continue a text piece by piece."""
        async with self._exchange(request, context) as exchange:
            answer = self._answerer.answer(exchange, typed_request.completion(request.complete), stream=True)
            first = True
            async with contextlib.aclosing(Coalescer(answer, self._interval_s).batches()) as batches:
                async for batch in batches:
                    deltas = [delta for piece in batch for delta in piece]
                    response = pb.StreamCompleteResponse(
                        text="".join(delta.text for delta in deltas),
                        logprobs=_logprobs(entry for delta in deltas for entry in delta.logprobs),
                    )
                    _end(response, deltas[-1], exchange)
                    if first:
                        response.receipt.CopyFrom(_receipt(exchange))
                        first = False
                    yield response

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:  # noqa: N802 - gRPC's name
        """Embed texts."""
        async with self._exchange(request, context) as exchange:
            ask = EmbedAsk(request.model, tuple(request.inputs), None, request.mesh.task_type)
            found = await self._answerer.embed(exchange, ask)
            return pb.EmbedResponse(
                embeddings=[pb.Embedding(values=vector) for vector in found.vectors],
                usage=_usage(found.usage),
                receipt=_receipt(exchange),
            )

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:  # noqa: N802
        """Rank documents."""
        async with self._exchange(request, context) as exchange:
            ask = ScoreAsk(request.model, tuple(request.documents), request.query, request.mesh.task_type)
            found = await self._answerer.score(exchange, ask)
            return pb.RerankResponse(
                results=[pb.Ranked(index=index, relevance_score=score) for index, score in best(found, request.top_n)],
                usage=_usage(found.usage),
                receipt=_receipt(exchange),
            )

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: N802
        """Classify texts."""
        async with self._exchange(request, context) as exchange:
            ask = ScoreAsk(request.model, tuple(request.inputs), None, request.mesh.task_type)
            found = await self._answerer.score(exchange, ask)
            return pb.ClassifyResponse(
                results=[pb.Classification(label=likeliest(found, row), probabilities=row) for row in found.values],
                labels=found.labels,
                usage=_usage(found.usage),
                receipt=_receipt(exchange),
            )

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """List models."""
        async with self._exchange(request, context) as exchange:
            statuses = await self._catalogue.statuses(exchange.tenant)
            page, token = page_of(statuses, request.page_size, request.page_token)
            models = [
                pb.Model(
                    id=status.manifest.id,
                    task=TASKS.get(status.manifest.task, ""),
                    context_length=status.manifest.context_length,
                    ready=self._catalogue.ready(status),
                    input_modalities=taken(status.manifest.input_modalities),
                )
                for status in page
            ]
            return pb.ListModelsResponse(models=models, next_page_token=token)


def _as_json(request: ProtoMessage) -> bytes:
    """What is committed to and kept: text that rules of redaction can read, and people."""
    text = json_format.MessageToJson(request, preserving_proto_field_name=True, indent=None, ensure_ascii=False)
    return text.encode()


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _logprobs(logprobs: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(
            token=entry.token, logprob=entry.logprob, token_bytes=entry.token_bytes, top=_logprobs(entry.top)
        )
        for entry in logprobs
    ]


def _receipt(exchange: Exchange) -> pb.Receipt:
    caller = exchange.caller
    return pb.Receipt(
        audit_id=exchange.audit_id,
        request_id=caller.request_id,
        model=exchange.model,
        trace_id=caller.trace.trace_id.hex(),
    )


def _end(response: pb.StreamChatResponse | pb.StreamCompleteResponse, last: Delta, exchange: Exchange) -> None:
    if last.finish_reason is not None:
        response.finish_reason = _FINISH.get(last.finish_reason, pb.FINISH_REASON_STOP)
        response.usage.CopyFrom(_usage(exchange.usage))
