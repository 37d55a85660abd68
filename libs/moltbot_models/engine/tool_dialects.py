"""How families of models write tool calls: what tells a family, how its calls are read, and how one is demanded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from moltbot_models.engine.json_calls import (
    ARGUMENTS,
    CALL_ID,
    PYTHON_TAG,
    TOOL_CALLS,
    LlamaToolCalls,
    MistralToolCalls,
)
from moltbot_models.engine.tool_calls import CLOSE, OPEN, HermesToolCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from moltbot_models.generation import ToolCallDelta


class ToolCallParser(Protocol):
    """Splits an answer into plain text and calls, piece by piece."""

    calls: int
    """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """Return the plain text and the pieces of calls that this text completes."""
        ...

    def finish(self) -> tuple[str, list[ToolCallDelta]]:
        """Return what is left at the end of the answer."""
        ...


@dataclass(frozen=True, slots=True)
class ToolDialect:
    """One way to write calls: `head` + name as JSON + `, "key":` + arguments + `tail`."""

    name: str
    parser: Callable[[], ToolCallParser]
    tags: tuple[str, ...]
    """Tokens that the parser must see although a tokenizer may call them special."""
    head: str
    key: str
    tail: tuple[str, ...]
    """Texts after the arguments; a tag among them is a token of its own where the tokenizer has one."""


HERMES = ToolDialect("hermes", HermesToolCalls, (OPEN, CLOSE), f'{OPEN}\n{{"name": ', "arguments", ("}", "\n", CLOSE))
LLAMA = ToolDialect("llama", LlamaToolCalls, (PYTHON_TAG,), '{"name": ', "parameters", ("}",))
MISTRAL = ToolDialect(
    "mistral", MistralToolCalls, (TOOL_CALLS, ARGUMENTS, CALL_ID), f'{TOOL_CALLS}[{{"name": ', "arguments", ("}", "]")
)


def dialect_of(template: str) -> ToolDialect | None:
    """The dialect that a chat template writes; None if it knows no calls."""
    if OPEN in template:
        return HERMES
    if TOOL_CALLS in template:
        return MISTRAL
    if PYTHON_TAG in template or ("ipython" in template and '"parameters"' in template):
        return LLAMA
    return None
