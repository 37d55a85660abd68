"""The way of one request: admit, route and remember, generate with failover, run tools, mark, make the turn durable.

Everything that an answer depends on happens here, in this order. What nobody waits for — the audit event, the output's
fingerprint, the models' health — is handed on by `recorder` and `upstream_pool`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from moltbot_gateway.ask import ANY_TOOL
from moltbot_gateway.collect import CallPieces
from moltbot_gateway.exchange import ToolRun
from moltbot_gateway.failover import estimate_tokens, monotonic_deadline
from moltbot_gateway.media_notes import media_tokens
from moltbot_mesh.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, MoltbotError, NotFound
from moltbot_mesh.telemetry import Stopwatch
from moltbot_mesh.together import all_of, together
from moltbot_models.generation import (
    Delta,
    EmbeddingRequest,
    GenerationRequest,
    Message,
    ScoringRequest,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from moltbot_gateway.ask import Ask, EmbedAsk, ScoreAsk
    from moltbot_gateway.exchange import Exchange
    from moltbot_gateway.failover import Failover
    from moltbot_gateway.fair_queue import FairQueue
    from moltbot_gateway.peers import Peers
    from moltbot_gateway.quota import Quotas
    from moltbot_gateway.settings import GatewaySettings, TenantLimits
    from moltbot_gateway.stream_mark import StreamMark
    from moltbot_models.generation import Embeddings, FinishReason, Scores

    Deltas = tuple[Delta, ...]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the first steps found."""

    models: tuple[str, ...]
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    mark: StreamMark | None = None


class Answerer:
    """Answers conversations, continues texts, embeds, ranks and classifies.

    Args:
        settings: The gateway's section.
        failover: Asks the models.
        peers: The other services.
        queue: Admission.
        quotas: What tenants may use.
    """

    def __init__(
        self, settings: GatewaySettings, failover: Failover, peers: Peers, queue: FairQueue, quotas: Quotas
    ) -> None:
        self._settings = settings
        self._failover = failover
        self._peers = peers
        self._queue = queue
        self._quotas = quotas

    async def answer(self, exchange: Exchange, ask: Ask, *, stream: bool) -> AsyncGenerator[Deltas]:
        """Answer a conversation or continue a text.

        Args:
            exchange: The request's record; its model is set before the first piece is yielded.
            ask: What is asked.
            stream: Whether pieces are wanted as they come; else there may be a single one.

        Yields:
            Pieces; the last delta of the last piece has the finish reason and the usage. With a session, the turn is
            durable before it.

        Raises:
            MoltbotError: Before the first piece if nothing could be answered; after it, the answer stays cut off.
        """
        async with self._admitted(exchange, ask.prompt_bytes(), media_tokens(ask.messages)) as limits:
            prepared = await self._prepare(exchange, ask, mark=limits.mark)
            new_messages: list[Message] = []
            steps = self._steps(exchange, ask, prepared, new_messages, stream=stream)
            try:
                async for deltas in steps:
                    exchange.text.extend(delta.text for delta in deltas if delta.text)
                    exchange.reasoning.extend(delta.reasoning for delta in deltas if delta.reasoning)
                    if deltas[-1].finish_reason is not None and exchange.session:
                        await self._peers.append_turn(exchange, (*ask.messages, *new_messages))
                    yield deltas if prepared.mark is None else await prepared.mark.embed(deltas)
            finally:
                await steps.aclose()
                if prepared.mark is not None:
                    prepared.mark.close()

    async def embed(self, exchange: Exchange, ask: EmbedAsk) -> Embeddings:
        """Embed texts.

        Raises:
            MoltbotError: No model could.
        """
        caller = exchange.caller
        size_bytes = sum(len(text) for text in ask.inputs)
        async with self._admitted(exchange, size_bytes):
            models = await self._peers.route_encoder(exchange, ask, "embedding", size_bytes)
            traceparent = caller.trace.traceparent
            request = EmbeddingRequest("", ask.inputs, ask.dimensions, caller.request_id, exchange.tenant, traceparent)
            return await self._failover.embed(exchange, models, request)

    async def score(self, exchange: Exchange, ask: ScoreAsk) -> Scores:
        """Rank or classify texts.

        Raises:
            MoltbotError: No model could.
        """
        caller, size_bytes = exchange.caller, ask.prompt_bytes()
        async with self._admitted(exchange, size_bytes):
            task = "classification" if ask.query is None else "rerank"
            models = await self._peers.route_encoder(exchange, ask, task, size_bytes)
            traceparent = caller.trace.traceparent
            request = ScoringRequest("", ask.inputs, ask.query, caller.request_id, exchange.tenant, traceparent)
            return await self._failover.score(exchange, models, request, size_bytes)

    @contextlib.asynccontextmanager
    async def _admitted(self, exchange: Exchange, prompt_bytes: int, more: int = 0) -> AsyncGenerator[TenantLimits]:
        """`more` tokens are charged beside those of the text."""
        tenant = exchange.tenant
        limits = self._settings.limits(tenant)
        charged = estimate_tokens(prompt_bytes) + more
        exchange.deadline_s = monotonic_deadline(exchange.caller.deadline_monotonic_s, self._settings.request_timeout_s)
        await self._quotas.admit(tenant, limits, charged)
        try:
            async with self._queue.place(tenant, limits.weight):
                try:
                    yield limits
                finally:
                    used = exchange.usage.prompt_tokens + exchange.usage.completion_tokens
                    await self._quotas.settle(tenant, limits, charged, used)
        except MoltbotError as error:
            # What no model answered costs nothing; but who leaves, or gives too little time, has had a model work.
            hurried = (
                isinstance(error, DeadlineExceeded) and exchange.deadline_s == exchange.caller.deadline_monotonic_s
            )
            if not exchange.model and not hurried:
                await self._quotas.refund(tenant, limits, charged)
            raise

    async def _prepare(self, exchange: Exchange, ask: Ask, *, mark: bool) -> _Prepared:
        """Route, remember, list tools and reserve a mark: in parallel, where there is more than routing to do."""
        mesh = ask.mesh
        wants_mark = mark if mesh.mark is None else mesh.mark
        if ask.response_format is not None:
            wants_mark = False  # characters that nobody sees would break what a program is to read
        if not (mesh.session or mesh.tools or wants_mark):
            return _Prepared(await self._peers.route(exchange, ask), ask.messages)
        if mesh.session and not ask.messages:
            raise InvalidArgument("moltbot.session: a session needs messages; use the chat route")
        exchange.session = mesh.session
        budget = self._settings.prompt_budget_tokens
        models, messages, tools, stream_mark = await together(
            self._peers.route(exchange, ask),
            self._peers.assemble(exchange, ask, budget) if mesh.session else _same(ask.messages),
            self._peers.tools(exchange.tenant) if mesh.tools else _same(()),
            self._peers.open_mark(exchange) if wants_mark else _same(None),
        )
        return _Prepared(models, messages, _chosen(tools, mesh.tools), stream_mark)

    async def _steps(
        self, exchange: Exchange, ask: Ask, prepared: _Prepared, new_messages: list[Message], *, stream: bool
    ) -> AsyncGenerator[Deltas]:
        """The loop of model and tools; without tools of the mesh it is one step.

        `new_messages` grows by what the model and the tools said; it is complete before the last piece is yielded.
        """
        own = {tool.name for tool in prepared.tools}
        request = GenerationRequest(
            "",
            prepared.messages,
            ask.prompt,
            (*prepared.tools, *(tool for tool in ask.tools if tool.name not in own)),
            ask.tool_choice,
            ask.sampling,
            exchange.caller.request_id,
            exchange.tenant,
            exchange.caller.trace.traceparent,
            ask.response_format,
            ask.template_options,
        )
        for _ in range(self._settings.max_tool_steps):
            step = _Step()
            pieces = self._failover.generate(exchange, prepared.models, request, stream=stream)
            async with contextlib.aclosing(pieces):
                async for deltas in pieces:
                    step.take(deltas)
                    if not own:
                        if step.finish_reason is not None:
                            new_messages.append(step.message())
                        yield deltas
                        continue
                    # Calls are held back until it is known whose tools they name; text passes.
                    text = tuple(
                        Delta(d.text, logprobs=d.logprobs, reasoning=d.reasoning)
                        for d in deltas
                        if d.text or d.logprobs or d.reasoning
                    )
                    if text:
                        yield text
            if not own:
                return
            message = step.message()
            new_messages.append(message)
            if not message.tool_calls or any(call.name not in own for call in message.tool_calls):
                calls = tuple(
                    ToolCallDelta(index, call.id, call.name, call.arguments)
                    for index, call in enumerate(message.tool_calls)
                )
                yield (Delta("", calls, finish_reason=step.finish_reason, usage=exchange.usage),)
                return
            new_messages.extend(await self._run_tools(exchange, message.tool_calls))
            choice = "none" if request.tool_choice == "none" else "auto"  # a forced first call was made
            request = replace(request, messages=(*prepared.messages, *new_messages), tool_choice=choice)
        raise FailedPrecondition(
            f"the model still asked for tools after {self._settings.max_tool_steps} steps; "
            "offer fewer tools or ask in smaller steps",
            reason="TOOL_LOOP_EXCEEDED",
        )

    async def _run_tools(self, exchange: Exchange, calls: Sequence[ToolCall]) -> list[Message]:
        async def run(call: ToolCall) -> Message:
            watch = Stopwatch()
            try:
                content, failed = await self._peers.call_tool(exchange, call)
            except (InvalidArgument, NotFound, DeadlineExceeded) as error:
                # The model may mend its arguments; any other error ends the request.
                content, failed = f"error: {error.message}", True
                exchange.tool_runs.append(ToolRun(call.name, "refused", error.reason, watch.us(), call.arguments))
            except MoltbotError as error:
                exchange.tool_runs.append(ToolRun(call.name, "failed", error.reason, watch.us(), call.arguments))
                raise
            else:
                outcome, reason = ("failed", "TOOL_FAILED") if failed else ("success", "")
                exchange.tool_runs.append(ToolRun(call.name, outcome, reason, watch.us(), call.arguments, content))
            return Message("tool", content, name=call.name, tool_call_id=call.id)

        return await all_of(*(run(call) for call in calls))


class _Step:
    """What the model said in one step."""

    def __init__(self) -> None:
        self.finish_reason: FinishReason | None = None
        self._text: list[str] = []
        self._calls = CallPieces()

    def take(self, deltas: Deltas) -> None:
        for delta in deltas:
            if delta.text:
                self._text.append(delta.text)
            if delta.tool_calls:
                self._calls.take(delta)
            self.finish_reason = delta.finish_reason or self.finish_reason

    def message(self) -> Message:
        return Message("assistant", "".join(self._text), tool_calls=self._calls.calls())


async def _same(value: T) -> T:
    return value


def _chosen(tools: tuple[ToolSpec, ...], names: Sequence[str]) -> tuple[ToolSpec, ...]:
    if not names or ANY_TOOL in names:
        return tools
    known = {tool.name: tool for tool in tools}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        there = ", ".join(sorted(known))
        raise NotFound(f"moltbot.tools: no tool is named {unknown!r}; there are: {there}", reason="TOOL_NOT_FOUND")
    return tuple(known[name] for name in names)
