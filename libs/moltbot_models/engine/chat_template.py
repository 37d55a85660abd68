"""Renders a conversation with the model's own Jinja template, as transformers does."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.template_sandbox import BoundedEnvironment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Template
    from jinja2.parser import Parser

    from moltbot_models.generation import Message, TemplateValue, ToolSpec


_OWN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What every template is given."""
_PROBE = "probe"
_REFUSALS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _GenerationTag(Extension):
    """Lets `{% generation %}` through: training marks the assistant's words with it, here it says nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class ChatTemplate:
    """The compiled templates of one model: a default one, and one for tools where the model has it."""

    def __init__(
        self, source: str | Mapping[str, str], special_tokens: Mapping[str, str], image_token: str = ""
    ) -> None:
        """Compile in a sandbox that can neither import nor change what it is given, nor take time without end.

        Args:
            source: The template, or templates by name (`default`, `tool_use`).
            special_tokens: `bos_token`, `eos_token` and the like, which templates refer to.
            image_token: What stands in a prompt for an image; empty for a model of text alone.

        Raises:
            EngineError: `MODEL_INVALID` if a template is not valid Jinja.
        """
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = environment.bounded("tojson", _tojson)
        self._environment = environment
        environment.globals.update({"raise_exception": _raise_exception, "strftime_now": _strftime_now})  # pyright: ignore[reportArgumentType, reportCallIssue] - jinja2 types its own globals alone
        sources = {"default": source} if isinstance(source, str) else dict(source)
        self.text = "\n".join(sources.values())
        """All sources, for telling which dialect of tool calls the model speaks."""
        self._special = dict(special_tokens)
        try:
            environment.refill()  # constants are worked out now
            self._templates: dict[str, Template] = {
                name: environment.from_string(text) for name, text in sources.items()
            }
        except (TemplateError, MemoryError, RecursionError) as error:
            raise EngineError("MODEL_INVALID", f"the chat template is not valid Jinja: {error}") from error
        self._image_token = image_token
        self._takes_parts = bool(image_token) and self._walks_through_parts()

    def _walks_through_parts(self) -> bool:
        """Whether the template reads a message's content as a list of parts, as those of most vision models do."""
        try:
            text = self._render(None, [{"role": "user", "content": [_text_part(_PROBE)]}], None)
        except _REFUSALS:
            return False
        # A template for plain text would show the list itself.
        return _PROBE in text and not any(shown in text for shown in ("'type'", '"type"'))

    def render(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], options: Mapping[str, TemplateValue] | None = None
    ) -> str:
        """Return the prompt text, ready for the assistant's answer.

        Args:
            messages: The conversation.
            tools: What may be called.
            options: What the template is told besides; none of the names that it is given anyway.

        Raises:
            EngineError: `INVALID_ARGUMENT` if the template refuses the conversation.
        """
        try:
            return self._render(
                [_tool(tool) for tool in tools] or None, [self._message(message) for message in messages], options
            )
        except _REFUSALS as error:
            raise EngineError("INVALID_ARGUMENT", f"the model's chat template refuses the messages: {error}") from error

    def _render(
        self,
        tools: list[dict[str, Any]] | None,
        messages: list[dict[str, Any]],
        options: Mapping[str, TemplateValue] | None,
    ) -> str:
        template = self._templates.get("tool_use") if tools else None
        template = template or self._templates.get("default") or next(iter(self._templates.values()))
        self._environment.refill(messages, tools or [])
        return template.render(
            **{key: value for key, value in (options or {}).items() if key not in _OWN and key not in self._special},
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=True,
            **self._special,
        )

    def _message(self, message: Message) -> dict[str, Any]:
        role: str = message.role
        if role == "developer" and "developer" not in self.text:
            role = "system"
        out: dict[str, Any] = {"role": role, "content": self._content(message)}
        if message.name:
            out["name"] = message.name
        if message.tool_call_id:
            out["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            out["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _json(call.arguments)}}
                for call in message.tool_calls
            ]
        return out

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        """The content as transformers gives it: parts, or text in which the image's token stands on a line."""
        if not self._image_token:
            return message.content
        parts = message.parts or (message.content,)
        if self._takes_parts:
            return [_text_part(part) if isinstance(part, str) else {"type": "image"} for part in parts]
        return "\n".join(part if isinstance(part, str) else self._image_token for part in parts)


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": _json(tool.parameters)}
    return {"type": "function", "function": function}


def _json(text: str) -> Any:
    # Templates walk through arguments and schemas; what is not JSON is shown as the model wrote it.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - local time, as transformers


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
