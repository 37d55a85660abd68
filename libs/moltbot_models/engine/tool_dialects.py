"""How families of models write tool calls: what tells a family, how its calls are read, and how one is demanded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.deepseek_calls import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    FENCE,
    FENCE_END,
    SEPARATOR,
    DeepSeekToolCalls,
)
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
    """One way to write calls: `head` + name + `between` + arguments + `tail`."""

    name: str
    parser: Callable[[], ToolCallParser]
    tags: tuple[str, ...]
    """Tokens that the parser must see although a tokenizer may call them special."""
    head: str
    between: str
    tail: tuple[str, ...]
    """Texts after the arguments; a tag among them is a token of its own where the tokenizer has one."""

    def written(self, name: str) -> str:
        """A tool's name as it stands in a call: within quotes, those are part of `head` and `between`."""
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.head.endswith('"') else name


HERMES = ToolDialect(
    "hermes", HermesToolCalls, (OPEN, CLOSE), f'{OPEN}\n{{"name": "', '", "arguments":', ("}", "\n", CLOSE)
)
LLAMA = ToolDialect("llama", LlamaToolCalls, (PYTHON_TAG,), '{"name": "', '", "parameters":', ("}",))
MISTRAL = ToolDialect(
    "mistral",
    MistralToolCalls,
    (TOOL_CALLS, ARGUMENTS, CALL_ID),
    f'{TOOL_CALLS}[{{"name": "',
    '", "arguments":',
    ("}", "]"),
)
_OTHERS = re.compile(r"<arg_key>|<function=")
_DEEPSEEK_TAGS = (CALLS_BEGIN, CALL_BEGIN, SEPARATOR, CALL_END, CALLS_END)
DEEPSEEK_FENCED = ToolDialect(
    "deepseek-fenced",
    DeepSeekToolCalls,
    _DEEPSEEK_TAGS,
    f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}",
    FENCE,
    (FENCE_END, CALL_END, CALLS_END),
)
DEEPSEEK = ToolDialect(
    "deepseek",
    DeepSeekToolCalls,
    _DEEPSEEK_TAGS,
    f"{CALLS_BEGIN}{CALL_BEGIN}",
    SEPARATOR,
    (CALL_END, CALLS_END),
)
ALL_TAGS = frozenset(tag for dialect in (HERMES, LLAMA, MISTRAL, DEEPSEEK) for tag in dialect.tags)


def dialect_of(template: str) -> ToolDialect | None:
    """The dialect that a chat template writes; None if it knows no calls.

    Raises:
        EngineError: `INVALID_ARGUMENT` for calls that stand in a dialect's tags and are none of it.
    """
    if CALLS_BEGIN in template:
        return DEEPSEEK_FENCED if "```json" in template else DEEPSEEK
    if OPEN in template:
        if _OTHERS.search(template):
            raise EngineError(
                "INVALID_ARGUMENT",
                "tools: this model writes calls as GLM or Qwen3-Coder do, which is not built (built are Hermes, Qwen, "
                "Llama 3, Mistral and DeepSeek); send no tools, or serve it with another engine as an upstream",
            )
        return HERMES
    if TOOL_CALLS in template:
        return MISTRAL
    if PYTHON_TAG in template or ("ipython" in template and '"parameters"' in template):
        return LLAMA
    return None
