"""Conversations: what a skill makes, what the chat template renders, and which of it is learnt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Said:
    """One message."""

    role: str
    text: str
    call: tuple[str, dict[str, Any]] | None = None
    """Name and arguments of the tool that the assistant calls."""

    def openai(self) -> dict[str, Any]:
        """The message in the form of the chat completions API."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.call:
            function = {"name": self.call[0], "arguments": json.dumps(self.call[1], ensure_ascii=False)}
            message["tool_calls"] = [{"id": "call_0", "type": "function", "function": function}]
        return message


@dataclass(frozen=True, slots=True)
class Exchange:
    """One or more turns on one matter, and what a test of them looks for."""

    skill: str
    messages: list[Said]
    expect: str = ""
    """What the last answer has to contain; empty if the last message is a call or free text."""
    needs: str = ""
    """Tool that has to be offered; empty if none."""
    unless: str = ""
    """Tool that must not be offered; empty if none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What stands before a conversation."""

    system: str
    tools: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tool_names(self) -> list[str]:
        """Names of the tools, in order."""
        return [tool["function"]["name"] for tool in self.tools]


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A call as the assistant writes it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def tool_line(tool: dict[str, Any]) -> str:
    """A tool as the template shows it: name, description and the type of each argument."""
    function = tool["function"]
    types = {key: spec.get("type", "string") for key, spec in function["parameters"]["properties"].items()}
    return json.dumps(
        {"name": function["name"], "description": function["description"], "parameters": types}, ensure_ascii=False
    )


def head(setting: Setting) -> str:
    """The rendered system turn, empty if there is nothing to say."""
    if not setting.system and not setting.tools:
        return ""
    text = "<|im_start|>system\n" + setting.system
    if setting.tools:
        text += ("\n" if setting.system else "") + "<tools>\n" + "\n".join(map(tool_line, setting.tools)) + "\n</tools>"
    return text + "<|im_end|>\n"


def pieces(messages: list[Said]) -> list[tuple[str, bool]]:
    """The rendered messages in pieces, each with whether its tokens are learnt.

    The pieces are cut where no token can span the cut, so they may be tokenised one by one.
    """
    out: list[tuple[str, bool]] = []
    for index, said in enumerate(messages):
        if said.role == "assistant":
            text = call_text(*said.call) if said.call else ""
            whole = said.text + ("\n" if said.text and text else "") + text
            out += [("<|im_start|>assistant\n", False), (whole + "<|im_end|>", True), ("\n", False)]
        elif said.role == "tool":
            first = index == 0 or messages[index - 1].role != "tool"
            last = index + 1 == len(messages) or messages[index + 1].role != "tool"
            text = ("<|im_start|>user" if first else "") + f"\n<tool_response>\n{said.text}\n</tool_response>"
            out.append((text + ("<|im_end|>\n" if last else ""), False))
        else:
            out.append((f"<|im_start|>{said.role}\n{said.text}<|im_end|>\n", False))
    return out
