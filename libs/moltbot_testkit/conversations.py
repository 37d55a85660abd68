"""Conversations with images put to a text engine, and what it says."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moltbot_models.generation import GenerationRequest, Media, Message, Role, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.engine import EngineError, TextEngine
    from moltbot_models.generation import Delta, Usage

_WAIT_S = 60.0


@dataclass(slots=True)
class Answer:
    """Collects what an engine says about one request."""

    deltas: list[Delta] = field(default_factory=list["Delta"])
    error: EngineError | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def put(self, delta: Delta) -> None:
        """Take a piece."""
        self.deltas.append(delta)
        if delta.finish_reason is not None:
            self.ended.set()

    def fail(self, error: EngineError) -> None:
        """Take a failure."""
        self.error = error
        self.ended.set()

    def wait(self) -> Answer:
        """Wait for the end; a failure is raised."""
        if not self.ended.wait(_WAIT_S):
            raise AssertionError("the engine did not end the request")
        if self.error is not None:
            raise self.error
        return self

    @property
    def usage(self) -> Usage:
        """What was counted; only after the end."""
        usage = self.deltas[-1].usage
        assert usage is not None
        return usage

    @property
    def text(self) -> str:
        """All pieces together."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def raw(self) -> list[bytes]:
        """The bytes of each token, of a request with logprobs."""
        return [one.token_bytes for delta in self.deltas for one in delta.logprobs]


def message(role: Role, *parts: str | Media) -> Message:
    """A message of texts and media; its content is the texts joined, as the gateway makes it."""
    return Message(role, "".join(part for part in parts if isinstance(part, str)), parts=parts)


def image(data: bytes, media_type: str = "image/png") -> Media:
    """An image as a part."""
    return Media("image", data, media_type)


def ask(engine: TextEngine, messages: Sequence[Message], *, tenant: str = "", **sampling: Any) -> Answer:
    """Submit a conversation and return its answer, which comes later."""
    answer = Answer()
    request = GenerationRequest("m", tuple(messages), tenant=tenant, sampling=Sampling(**sampling))
    engine.submit(request, answer.put, on_error=answer.fail)
    return answer
