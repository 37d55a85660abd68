"""The engine: one thread that computes steps, and a thread-safe way to hand it requests."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from moltbot_models.engine.answer import Answer
from moltbot_models.engine.blocks import BlockPool
from moltbot_models.engine.config import EngineConfig, EngineError, EngineStats, checked
from moltbot_models.engine.constraint import Grammars
from moltbot_models.engine.images import MAX_ROWS_BYTES, insets_of
from moltbot_models.engine.insets import rows_between
from moltbot_models.engine.job import Job, Outbox
from moltbot_models.engine.model_directory import read_model_directory
from moltbot_models.engine.paged_attention import BLOCK_TOKENS
from moltbot_models.engine.paged_model import PagedModel, Slice
from moltbot_models.engine.prompting import build_prompt
from moltbot_models.engine.sampler import Sampler, SamplingContext, draw_settings
from moltbot_models.engine.sampling_step import Row, sample_rows
from moltbot_models.engine.scheduler import Scheduler, Sequence
from moltbot_models.engine.source import read_source
from moltbot_models.generation import Delta

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.engine.sampler import SamplerHook
    from moltbot_models.engine.sampling_step import Drawn
    from moltbot_models.engine.scheduler import Chunk
    from moltbot_models.engine.source import Source
    from moltbot_models.generation import FinishReason, GenerationRequest
    from moltbot_models.vision.picture import Picture

_log = logging.getLogger(__name__)


class GenerationHandle:
    """A request under way."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        """End the request soon; its stream ends with `cancelled`. Harmless when it has ended already."""
        self._cancel()


class TextEngine:
    """Serves one model on this machine's CPU. Made by `load`."""

    def __init__(self, directory: ModelDirectory, source: Source, model: PagedModel, config: EngineConfig) -> None:
        self._directory, self._model, self._config = directory, model, config
        self._context_length, self._vocabulary = source.context_length, source.vocabulary
        self._eyes = source.eyes
        self._seeing = None if source.eyes.encoder is None else ThreadPoolExecutor(1, "images")
        self._pool = BlockPool(model.blocks)
        # A directory may name end tokens beyond the rows that the model has.
        self._ends = frozenset(token for token in directory.end_tokens if token < source.vocabulary)
        self._grammars = Grammars(directory, source.vocabulary)
        self._scheduler = Scheduler(
            self._pool, config.step_tokens, config.chunk_tokens or 0, fixed_chunks=config.deterministic
        )
        self._jobs: dict[int, Job] = {}
        self._outbox = Outbox(self._grammars)
        self._wake = threading.Condition()
        # Under the condition's lock: what other threads hand over.
        self._incoming: list[Job] = []
        self._cancelled: list[Job] = []
        self._closing = False
        self._rows_bytes = 0
        self._steps = self._prompt_tokens = self._completion_tokens = self._cached_tokens = self._failures = 0
        self._parameters = 0
        self._load_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="text-engine", daemon=True)

    @classmethod
    def load(cls, path: Path, config: EngineConfig = EngineConfig()) -> TextEngine:  # noqa: B008 - immutable
        """Read a model directory, compile it and start the engine's thread. Blocks for about a second.

        Args:
            path: Directory with config.json, tokenizer.json and safetensors or a stateful OpenVINO IR.
            config: How to compile and schedule.

        Raises:
            EngineError: `MODEL_UNSUPPORTED` naming what is not built, `MODEL_INVALID` for a damaged directory,
                `INVALID_ARGUMENT` for settings that do not fit, `ENGINE_FAILED` if OpenVINO refuses the model.
        """
        started = time.monotonic()
        config = checked(config)
        directory = read_model_directory(path)
        source = read_source(path, directory, config)
        try:
            model = PagedModel(source.model, config)
        except RuntimeError as error:
            if config.kv == "bf16" and "kvcache type" in str(error):
                mend = 'kv="bf16" needs a processor with AVX-512: set kv="u8", or compute="f32" and kv="f32"'
                raise EngineError("INVALID_ARGUMENT", f"{path}: {mend}") from error
            raise EngineError("ENGINE_FAILED", f"OpenVINO cannot compile the model in {path}: {error}") from error
        engine = cls(directory, source, model, config)
        engine._parameters = source.parameters
        engine._load_seconds = time.monotonic() - started
        engine._thread.start()
        return engine

    def submit(
        self,
        request: GenerationRequest,
        on_delta: Callable[[Delta], None],
        *,
        on_error: Callable[[EngineError], None],
        hook: SamplerHook | None = None,
        pictures: tuple[Picture, ...] | None = None,
    ) -> GenerationHandle:
        """Queue a request; thread-safe. Rendering, tokenising and encoding of images are the calling thread's.

        Args:
            request: What is asked. `max_tokens` is cut to what the context and the cache can hold.
            on_delta: Called from the engine's thread; must not block. What a step gives comes at most once, while the
                next one is computed. The last delta has `finish_reason` and `usage`, and comes at once. If it raises,
                the request is ended.
            on_error: Called from the engine's thread instead of a last delta if the request fails on its way.
            hook: Takes part in sampling.
            pictures: The request's images, encoded elsewhere (`EngineConfig.encodes_images`).

        Raises:
            EngineError: At once, if the request cannot be served: `INVALID_ARGUMENT`, `REQUEST_TOO_LARGE`,
                `QUEUE_FULL`, `ENGINE_CLOSED`.
        """
        limit = min(self._context_length, self._pool.count * BLOCK_TOKENS)
        prompt = build_prompt(self._directory, request, self._vocabulary, limit, self._eyes.shape)
        length = len(prompt.tokens)
        if length >= limit:
            raise EngineError(
                "REQUEST_TOO_LARGE", f"the prompt has {length} tokens, prompt and answer together may have {limit}"
            )
        rows_bytes = self._eyes.bytes_of(len(prompt.images))
        if prompt.images:
            with self._wake:
                self._require_room(rows_bytes)  # before the work of encoding, too
        wanted = request.sampling.max_tokens
        sequence = Sequence(
            tokens=prompt.tokens,
            prompt_length=length,
            max_length=limit if wanted is None else min(limit, length + wanted),
            tenant=request.tenant,
            insets=insets_of(prompt, pictures, self._eyes),
        )
        settings = draw_settings(request.sampling, self._directory.generation)
        answer = Answer(self._directory, request, prompt)
        if request.response_format is not None:
            constraint = self._grammars.constraint(request.response_format)
        else:
            constraint = self._grammars.of_calls(prompt.grammar, prompt.unasked, waiting=answer.thinking)
        own_ends = frozenset[int]() if request.sampling.ignore_eos else self._ends
        ends = own_ends.union(request.sampling.stop_token_ids)
        context = SamplingContext(request, sequence.tokens, length, settings)
        row = Row(context, Sampler(settings), hook, constraint, ends)
        job = Job(request, sequence, answer, row, on_delta, on_error)
        with self._wake:
            self._require_room(rows_bytes)
            self._rows_bytes += rows_bytes
            self._incoming.append(job)
            self._wake.notify()
        return GenerationHandle(lambda: self._cancel(job))

    @property
    def vocabulary(self) -> int:
        """Tokens that have a logit."""
        return self._vocabulary

    def _require_room(self, rows_bytes: int) -> None:
        if self._closing:
            raise EngineError("ENGINE_CLOSED", "the engine is closed")
        if len(self._incoming) + len(self._scheduler.waiting) >= self._config.max_queue:
            raise EngineError("QUEUE_FULL", f"{self._config.max_queue} requests wait already; try again later")
        if self._rows_bytes and self._rows_bytes + rows_bytes > MAX_ROWS_BYTES:
            raise EngineError("QUEUE_FULL", "the images of other requests take the room for images; try again later")

    def executor_for(self, request: GenerationRequest) -> Executor | None:
        """Where `submit` is to be called from; None: anywhere.

        Images are encoded one after another. Their requests wait here, not in threads that those of text need.
        """
        return self._seeing if any(message.parts for message in request.messages) else None

    def stats(self) -> EngineStats:
        """Return counters and the present state; thread-safe."""
        with self._wake:
            return EngineStats(
                running=len(self._scheduler.running),
                waiting=len(self._scheduler.waiting) + len(self._incoming),
                blocks_total=self._pool.count,
                blocks_free=self._pool.free,
                blocks_cached=self._pool.cached,
                steps=self._steps,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                cached_tokens=self._cached_tokens,
                preemptions=self._scheduler.preemptions,
                failures=self._failures,
                parameters=self._parameters,
                context_length=self._context_length,
                load_seconds=self._load_seconds,
            )

    def close(self) -> None:
        """Stop the thread; requests under way end with `ENGINE_CLOSED`. May be called twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._seeing is not None:
            self._seeing.shutdown(wait=False)  # what waits there is refused: the engine is closed

    def _cancel(self, job: Job) -> None:
        with self._wake:
            if not job.done and not self._closing:
                self._cancelled.append(job)
                self._wake.notify()

    def _run(self) -> None:
        while True:
            try:
                if not self._take_orders():
                    break
                if chunks := self._scheduler.plan():
                    self._step(chunks)
            except Exception as error:  # noqa: BLE001 - the thread outlives a bad step
                # The cache may hold half a step: nobody under way can be trusted to go on, later requests can.
                _log.exception("a step failed; its requests are ended")
                self._fail_all(EngineError("ENGINE_FAILED", f"the step failed: {type(error).__name__}"))
                self._pool.forget_all()
        with self._wake:
            late, self._incoming = self._incoming, []
        for job in late:
            self._jobs[id(job.sequence)] = job
        self._fail_all(EngineError("ENGINE_CLOSED", "the engine was closed"))

    def _take_orders(self) -> bool:
        """Wait for work and take over what other threads handed in; False when the engine closes."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._incoming or self._cancelled or self._jobs)
            if self._closing:
                return False
            incoming, self._incoming = self._incoming, []
            cancelled, self._cancelled = self._cancelled, []
        for job in incoming:
            self._jobs[id(job.sequence)] = job
            self._scheduler.add(job.sequence)
        for job in cancelled:
            if not job.done:
                self._finish(job, None, "cancelled")
        return True

    def _step(self, chunks: list[Chunk]) -> None:
        began_s = time.monotonic()
        logits = self._model.forward(
            [
                Slice(
                    chunk.sequence.tokens[chunk.begin : chunk.end],
                    chunk.begin,
                    chunk.sequence.blocks,
                    chunk.samples,
                    rows_between(chunk.sequence.insets, chunk.begin, chunk.end),
                )
                for chunk in chunks
            ],
            self._outbox.hand_over,
        )
        self._steps += 1
        jobs: list[Job] = []
        for chunk in chunks:
            sequence = chunk.sequence
            job = self._jobs[id(sequence)]
            job.began_s = job.began_s or began_s
            if chunk.begin < sequence.prompt_length:
                self._prompt_tokens += min(chunk.end, sequence.prompt_length) - chunk.begin
            if chunk.samples:
                jobs.append(job)
            self._scheduler.complete(chunk)
        for job, error in self._outbox.broken():
            self._fail(job, error)
        tokens = sample_rows(logits, [job.row for job in jobs], self._directory.vocabulary, self._grammars)
        drawn_s = time.monotonic()
        for job, drawn in zip(jobs, tokens, strict=True):
            if job.done:
                continue
            if isinstance(drawn, EngineError):
                self._fail(job, drawn)
                continue
            job.first_s = job.first_s or drawn_s
            job.sequence.tokens.append(drawn.token)
            self._completion_tokens += 1
            self._advance(job, drawn)

    def _advance(self, job: Job, drawn: Drawn) -> None:
        """End the request if this token is its last; what it shows of one that goes on can wait for the next step."""
        constraint = job.row.constraint
        ended = drawn.token in job.row.ends
        whole = ended or (constraint is not None and constraint.complete)
        full = len(job.sequence.tokens) >= job.sequence.max_length
        reads = job.answer.stoppable or (constraint is not None and constraint.waiting)
        if not (whole or full or reads):
            self._outbox.put(job, drawn)
            return
        # The end token is counted and has a probability, but is never text, special or not.
        shown = None if drawn.logprob is None else Delta(logprobs=(drawn.logprob,))
        last = shown if ended else job.read(drawn)
        if isinstance(last, EngineError):
            self._fail(job, last)
            return
        if constraint is not None and constraint.waiting and not job.answer.thinking:
            begun = self._directory.tokenizer.encode(job.answer.begun, add_special_tokens=False).ids
            if (left := constraint.begin(begun)) is not None:
                self._fail(job, left)
                return
            whole = whole or constraint.complete
        if whole or job.answer.stopped:
            self._finish(job, last, "stop")
        elif full:
            self._finish(job, last, "length")
        else:
            self._outbox.put(job, last)

    def _finish(self, job: Job, last: Delta | None, reason: FinishReason) -> None:
        closing = self._outbox.hand_over_of(job) or job.closing(last, reason)
        if isinstance(closing, EngineError):
            self._fail(job, closing)
            return
        self._leave(job)
        self._cached_tokens += job.sequence.cached_prompt
        job.tell(closing)

    def _fail(self, job: Job, error: EngineError) -> None:
        self._outbox.hand_over_of(job)
        self._leave(job)
        self._failures += 1
        job.tell_error(error)

    def _fail_all(self, error: EngineError) -> None:
        for job in list(self._jobs.values()):
            self._fail(job, error)

    def _leave(self, job: Job) -> None:
        job.done = True
        with self._wake:
            self._rows_bytes -= sum(inset.rows.nbytes for inset in job.sequence.insets)
        self._jobs.pop(id(job.sequence), None)
        self._scheduler.remove(job.sequence)
