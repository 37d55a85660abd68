"""Asks the candidates of a route in order; the next one answers while nothing of an answer has gone out.

A candidate that fails before its first token costs the client nothing but time. After the first token the answer stays
cut off with a clear error: two models' halves are not one answer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from moltbot_gateway.exchange import Attempt
from moltbot_gateway.media_notes import media_tokens
from moltbot_mesh.errors import (
    DeadlineExceeded,
    Internal,
    MoltbotError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from moltbot_mesh.telemetry import Stopwatch
from moltbot_models.generation import Usage
from moltbot_models.manifest import leaves_the_machine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from moltbot_gateway.exchange import Exchange
    from moltbot_gateway.settings import GatewaySettings
    from moltbot_gateway.upstream_pool import OpenUpstream, UpstreamPool
    from moltbot_mesh.audit.event_words import Outcome
    from moltbot_models.generation import (
        Delta,
        EmbeddingRequest,
        Embeddings,
        GenerationRequest,
        Sampling,
        Scores,
        ScoringRequest,
        Timing,
    )

A = TypeVar("A", "Embeddings", "Scores")

_MOST_TOKENS = (1 << 31) - 1
"""Of each part of a sum, which then fits an event's 32 bits."""
_RETRYABLE = (Unavailable, DeadlineExceeded, ResourceExhausted, Internal, Unauthenticated)
"""Failures that say nothing about the request itself: another model may answer it."""


def estimate_tokens(size: int) -> int:
    """Tokens of a text that nobody has counted: four characters each."""
    return (size + 3) // 4


class Failover:
    """Generates, embeds and scores with the first candidate that can.

    Args:
        settings: The gateway's section.
        pool: The upstreams.
    """

    def __init__(self, settings: GatewaySettings, pool: UpstreamPool) -> None:
        self._settings = settings
        self._pool = pool

    async def generate(
        self, exchange: Exchange, models: Sequence[str], request: GenerationRequest, *, stream: bool
    ) -> AsyncGenerator[tuple[Delta, ...]]:
        """Generate text.

        Args:
            exchange: Its model is set before the first piece is yielded, its usage with the last.
            models: Ids of the candidates, best first.
            request: What to generate; model and token limit are filled in for each candidate.
            stream: Whether pieces are wanted as they come.

        Raises:
            MoltbotError: No candidate could, or one failed after its first token.
        """
        failures: list[MoltbotError] = []
        for model in models[: self._settings.max_attempts]:
            try:
                upstream = self._pool.get(model)
            except Unavailable as error:
                failures.append(error)
                continue
            attempt = _Running(exchange, self._pool, upstream, "chat" if request.prompt is None else "text_completion")
            sampling = self._within_limits(request.sampling, upstream)
            limited = replace(request, model=upstream.name, sampling=sampling, traceparent=attempt.traceparent)
            pieces = upstream.provider.generate(limited, stream=stream)
            size = 0
            try:
                while True:
                    async with asyncio.timeout_at(exchange.deadline_s):
                        deltas = await anext(pieces, None)
                    if deltas is None:
                        raise Unavailable(f"{model}: the answer broke off", reason="UPSTREAM_ERROR")
                    last = deltas[-1]
                    for delta in deltas:
                        size += len(delta.text) + len(delta.reasoning)
                    if not attempt.first_token_us:
                        if not size and not any(d.tool_calls or d.finish_reason for d in deltas):
                            continue
                        attempt.first_token_us = max(1, attempt.watch.us())  # 0 means that none came
                        exchange.model = model
                    if last.finish_reason is None:
                        yield deltas
                        continue
                    counted = _sum(last.usage or Usage(_prompt_tokens(request), estimate_tokens(size)), Usage())
                    exchange.usage = _sum(exchange.usage, counted)
                    attempt.usage, attempt.finish_reason = counted, last.finish_reason
                    attempt.timing = last.timing
                    attempt.ended(None)
                    yield (*deltas[:-1], replace(last, usage=exchange.usage))
                    return
            except TimeoutError:
                attempt.cut_off(request, size)
                raise attempt.out_of_time() from None
            except MoltbotError as error:
                attempt.cut_off(request, size)
                attempt.ended(error)
                if attempt.first_token_us or not isinstance(error, _RETRYABLE):
                    raise
                failures.append(error)
            finally:
                attempt.cut_off(request, size)
                attempt.cancelled()
                await pieces.aclose()
        raise _nobody(models, failures)

    async def embed(self, exchange: Exchange, models: Sequence[str], request: EmbeddingRequest) -> Embeddings:
        """Embed texts.

        Raises:
            MoltbotError: No candidate could.
        """

        def call(upstream: OpenUpstream, traceparent: str) -> Awaitable[Embeddings]:
            return upstream.provider.embed(replace(request, model=upstream.name, traceparent=traceparent))

        return await self._first(exchange, models, "embeddings", call, sum(map(len, request.inputs)))

    async def score(
        self, exchange: Exchange, models: Sequence[str], request: ScoringRequest, size_bytes: int
    ) -> Scores:
        """Rank or classify texts.

        Raises:
            MoltbotError: No candidate could.
        """

        def call(upstream: OpenUpstream, traceparent: str) -> Awaitable[Scores]:
            return upstream.provider.score(replace(request, model=upstream.name, traceparent=traceparent))

        return await self._first(exchange, models, "classify" if request.query is None else "rerank", call, size_bytes)

    async def _first(
        self,
        exchange: Exchange,
        models: Sequence[str],
        operation: str,
        call: Callable[[OpenUpstream, str], Awaitable[A]],
        size_bytes: int,
    ) -> A:
        """The answer of the first candidate that gives one; `size_bytes` stands in for tokens that nobody counted."""
        failures: list[MoltbotError] = []
        for model in models[: self._settings.max_attempts]:
            try:
                upstream = self._pool.get(model)
            except Unavailable as error:
                failures.append(error)
                continue
            attempt = _Running(exchange, self._pool, upstream, operation)
            try:
                async with asyncio.timeout_at(exchange.deadline_s):
                    found = await call(upstream, attempt.traceparent)
            except TimeoutError:
                raise attempt.out_of_time() from None
            except MoltbotError as error:
                attempt.ended(error)
                if not isinstance(error, _RETRYABLE):
                    raise
                failures.append(error)
            else:
                exchange.model = model
                counted = found.usage if found.usage.prompt_tokens else Usage(estimate_tokens(size_bytes))
                exchange.usage = attempt.usage = _sum(counted, Usage())
                attempt.ended(None)
                return found
            finally:
                attempt.cancelled()
        raise _nobody(models, failures)

    def _within_limits(self, sampling: Sampling, upstream: OpenUpstream) -> Sampling:
        most = upstream.manifest.max_tokens
        wanted = sampling.max_tokens
        if wanted is None:
            return replace(
                sampling, max_tokens=min(most or self._settings.default_max_tokens, self._settings.default_max_tokens)
            )
        return replace(sampling, max_tokens=most) if most and wanted > most else sampling


class _Running:
    """One call to a model, reported once when it ends."""

    def __init__(self, exchange: Exchange, pool: UpstreamPool, upstream: OpenUpstream, operation: str) -> None:
        self.watch = Stopwatch()
        self.first_token_us = 0
        self.usage = Usage()
        self.finish_reason = ""
        self.timing: Timing | None = None
        trace = exchange.caller.trace
        # What is recorded has a span of its own for each model that was asked, which is the upstream's parent.
        trace = trace.child() if trace.sampled else trace
        self.traceparent = trace.traceparent
        self._span_id = trace.span_id if trace.sampled else b""
        self._operation = operation
        self._exchange = exchange
        self._pool = pool
        self._upstream = upstream
        self._model = upstream.manifest.id
        self._reported = False
        upstream.calls += 1
        pool.started(self._model)

    def ended(self, error: MoltbotError | None) -> None:
        """It ended by itself."""
        if error is None:
            self._report("success", "", ok=True)
        else:
            self._report("failed", error.reason, ok=False if isinstance(error, _RETRYABLE) else None)

    def cut_off(self, request: GenerationRequest, size: int) -> None:
        """Unless it ended, count what has gone out: an answer that is left half-way was generated all the same.

        Args:
            request: What was asked.
            size: Characters that came.
        """
        if self._reported or not self.first_token_us:
            return
        self.usage = Usage(_prompt_tokens(request), estimate_tokens(size))
        self._exchange.usage = _sum(self._exchange.usage, self.usage)

    def out_of_time(self) -> DeadlineExceeded:
        """The request's time is over: the model's failure, unless it is the caller who gave it so little."""
        error = DeadlineExceeded(f"{self._model}: the request's time ran out")
        by_caller = self._exchange.deadline_s == self._exchange.caller.deadline_monotonic_s
        self._report("failed", error.reason, ok=None if by_caller else False)
        return error

    def cancelled(self) -> None:
        """Unless it ended, the client left."""
        self._report("cancelled", "CANCELLED", ok=None)

    def _report(self, outcome: Outcome, reason: str, *, ok: bool | None) -> None:
        if self._reported:
            return
        self._reported = True
        first_us, took_us = self.first_token_us, self.watch.us()
        attempt = Attempt(
            self._model,
            outcome,
            reason,
            first_us,
            took_us,
            self._operation,
            self.usage,
            self.finish_reason,
            leaves_the_machine(self._upstream.manifest),
            self.timing,
            self._span_id,
        )
        self._exchange.attempts.append(attempt)
        self._upstream.calls -= 1
        self._pool.ended(self._model, ok=ok, first_token_us=first_us, duration_us=took_us)


def _prompt_tokens(request: GenerationRequest) -> int:
    if request.prompt is not None:
        return estimate_tokens(len(request.prompt))
    return estimate_tokens(sum(len(message.content) for message in request.messages)) + media_tokens(request.messages)


def _sum(a: Usage, b: Usage) -> Usage:
    """Both together, within what a record can hold: an upstream may say anything, and quotas must not grow by it."""
    return Usage(
        _counted(a.prompt_tokens) + _counted(b.prompt_tokens),
        _counted(a.completion_tokens) + _counted(b.completion_tokens),
        _counted(a.cached_tokens) + _counted(b.cached_tokens),
    )


def _counted(tokens: int) -> int:
    return min(max(tokens, 0), _MOST_TOKENS)


def _nobody(models: Sequence[str], failures: Sequence[MoltbotError]) -> MoltbotError:
    if len(failures) == 1:
        return failures[0]
    said = "; ".join(error.message for error in failures)
    after = [error.retry_after_s for error in failures if error.retry_after_s is not None]
    return Unavailable(
        f"none of the models {', '.join(models)} could answer: {said}",
        reason="UPSTREAM_UNAVAILABLE",
        retry_after_s=min(after) if after else None,
    )


def monotonic_deadline(caller_s: float | None, at_most_s: float) -> float:
    """When a request must have ended, on the event loop's clock."""
    limit = time.monotonic() + at_most_s
    return limit if caller_s is None else min(limit, caller_s)
