"""A request under way, and what its caller is told while the next step is computed."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.sampling_step import Drawn
from moltbot_models.generation import Delta, Timing, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from moltbot_models.engine.answer import Answer
    from moltbot_models.engine.constraint import Grammars
    from moltbot_models.engine.sampling_step import Row
    from moltbot_models.engine.scheduler import Sequence
    from moltbot_models.generation import FinishReason, GenerationRequest

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """All that belongs to one request."""

    request: GenerationRequest
    sequence: Sequence
    answer: Answer
    row: Row
    on_delta: Callable[[Delta], None]
    on_error: Callable[[EngineError], None]
    done: bool = False
    """It has left the engine; its last delta or its error is all that may still be told."""
    queued_s: float = field(default_factory=time.monotonic)
    began_s: float = 0.0
    first_s: float = 0.0
    """When it was queued, first computed, and its first token drawn; 0 as long as it was not."""

    def timing(self) -> Timing:
        """Its phases so far."""
        now_s = time.monotonic()
        began_s, first_s = self.began_s or now_s, self.first_s or now_s
        return Timing(began_s - self.queued_s, first_s - began_s, now_s - first_s)

    def usage(self) -> Usage:
        """Its tokens so far."""
        sequence = self.sequence
        answered = len(sequence.tokens) - sequence.prompt_length
        return Usage(sequence.prompt_length, answered, sequence.cached_prompt)

    def read(self, drawn: Drawn) -> Delta | EngineError | None:
        """What a token lets the caller see, if anything; an error if the answer cannot be read."""
        try:
            return self.answer.push(drawn.token, drawn.logprob)
        except Exception as error:  # noqa: BLE001 - what an answer's text does to its parser is the answer's alone
            return _unreadable(error)

    def closing(self, last: Delta | None, reason: FinishReason) -> Delta | EngineError:
        """The last delta, with what `read` gave for the last token; an error if the answer cannot be read."""
        try:
            return replace(self.answer.finish(last, reason, self.usage()), timing=self.timing())
        except Exception as error:  # noqa: BLE001 - as above
            return _unreadable(error)

    def tell(self, delta: Delta) -> EngineError | None:
        """Give the caller a delta. Return why the request cannot go on, if the caller raises."""
        try:
            self.on_delta(delta)
        except Exception as error:  # noqa: BLE001 - a caller's mistake ends its own request alone
            _log.exception("on_delta raised; its request is ended")
            return EngineError("ENGINE_FAILED", f"the receiver of the answer failed: {type(error).__name__}")
        return None

    def tell_error(self, error: EngineError) -> None:
        """Give the caller an error."""
        try:
            self.on_error(error)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("on_error raised")


def _unreadable(error: Exception) -> EngineError:
    _log.exception("an answer cannot be read; its request is ended")
    return EngineError("ENGINE_FAILED", f"the answer cannot be read: {type(error).__name__}")


class Outbox:
    """Work that the next step does not wait for, done while it is computed.

    Between two steps no processor computes, so as little as possible is done there: a token is drawn. What it lets the
    caller see, and what a grammar allows after it, is found out during the step that follows. Used in the engine's
    thread alone.
    """

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._kept: dict[Job, Drawn | Delta | None] = {}
        self._broken: list[tuple[Job, EngineError]] = []

    def put(self, job: Job, drawn: Drawn | Delta | None) -> None:
        """Keep a token of a request that goes on, or what it lets the caller see, which may be nothing."""
        self._kept[job] = drawn

    def hand_over(self) -> None:
        """Tell all that is kept, then find out what may follow. Raises nothing."""
        kept, self._kept = self._kept, {}
        for job, drawn in kept.items():
            if (failure := _told(job, drawn)) is not None:
                self._broken.append((job, failure))
        for job in kept:
            if (constraint := job.row.bound) is not None:
                self._grammars.look_ahead(constraint)

    def hand_over_of(self, job: Job) -> EngineError | None:
        """Tell what is kept of one request, before its end is told. Return why it cannot go on, if so."""
        return _told(job, self._kept.pop(job, None))

    def broken(self) -> list[tuple[Job, EngineError]]:
        """Take the requests that cannot go on: a step that computes them must be over before they leave."""
        broken, self._broken = self._broken, []
        return broken


def _told(job: Job, drawn: Drawn | Delta | None) -> EngineError | None:
    shown = job.read(drawn) if isinstance(drawn, Drawn) else drawn
    if isinstance(shown, EngineError):
        return shown
    return None if shown is None else job.tell(shown)
