"""Writes what transformers makes of chat templates, character for character, or that it refuses.

The templates are ours, each in the manner of a family's own: what they use of Jinja, and how, is what real ones use.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from moltbot_testkit.random_model import byte_tokenizer

GOLDEN = Path(__file__).resolve().parents[2] / "tests/unit/moltbot_models/engine/golden"
TODAY = dt.datetime(2025, 3, 9, 8, 7)  # noqa: DTZ001 - local time, as transformers takes it
SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "wetter",
            "description": "Sagt das Wetter: <heute> & \u201emorgen\u201c.",
            "parameters": {
                "type": "object",
                "properties": {
                    "ort": {"type": "string", "enum": ["K\u00f6ln", "\u6771\u4eac"]},
                    "tage": {"type": ["integer", "null"]},
                    "werte": {"type": "array", "items": {"type": "number"}},
                    "mehr": {"type": "object", "additionalProperties": {"type": "boolean"}},
                },
                "required": ["ort"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "uhr", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]


def call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [said("user", "Hi  ")],
    "system": [
        said("system", " Be brief.\n"),
        said("user", "Gr\u00fc\u00dfe <b> & 'so' \"weiter\" {{ x }} {% y %}\n\n\u6771\u4eac \U0001f600"),
    ],
    "turns": [
        said("user", "a"),
        said("assistant", "  b\n"),
        said("user", ""),
        said("assistant", "d"),
        said("user", "e\n"),
    ],
    "thoughts": [
        said("user", "2 + 2?"),
        said("assistant", "<think>\nFour, I think.\n</think>\n\nIt is 4."),
        said("user", "Sure?"),
    ],
    "call": [
        said("system", "Use tools."),
        said("user", "Wetter?"),
        said(
            "assistant",
            "",
            tool_calls=[call(1, "wetter", ort="K\u00f6ln", tage=None, werte=[1.0, 2], mehr={"a": True})],
        ),
        said("tool", '{"grad": 21.5}', name="wetter", tool_call_id="call00001"),
    ],
    "calls": [
        said("user", "Wetter und Uhr?"),
        said("assistant", "Moment.", tool_calls=[call(1, "wetter", ort="\u6771\u4eac"), call(2, "uhr")]),
        said("tool", "Regen", name="wetter", tool_call_id="call00001"),
        said("tool", "12:00", name="uhr", tool_call_id="call00002"),
        said("assistant", "<think>So.</think>Regen, 12 Uhr."),
        said("user", "Danke"),
    ],
    "out of turn": [said("assistant", "I begin."), said("user", "Do you?")],
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "qwen3": [{}, {"enable_thinking": False}, {"enable_thinking": True}],
    "glm": [{}, {"enable_thinking": False}],
    "features": [{}, {"option": True}],
    "llama": [{}, {"date_string": "today"}],
}


def rendering(tokenizer: PreTrainedTokenizerFast, messages: Any, tools: Any, options: dict[str, Any]) -> dict[str, str]:
    try:
        return {
            "text": tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, **options
            )
        }
    except Exception as error:  # noqa: BLE001 - whatever the template raises is its refusal
        return {"error": str(error)}


def main() -> None:
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # noqa: ARG003 - the clock stands
            return TODAY

    chat_template_utils.datetime = Clock
    cases = []
    sources = {path.stem: path.read_text("utf-8") for path in sorted((GOLDEN / "templates").glob("*.jinja"))}
    for name, source in sources.items():
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), **SPECIAL)
        tokenizer.chat_template = source
        for conversation, messages in CONVERSATIONS.items():
            for tools in (None, TOOLS):
                for options in OPTIONS.get(name, [{}]):
                    found = rendering(tokenizer, messages, tools, options)
                    case = {"template": name, "conversation": conversation, "tools": tools is not None}
                    cases.append(case | {"options": options} | found)
    tree = {
        "transformers": transformers.__version__,
        "today": TODAY.isoformat(),
        "special": SPECIAL,
        "tools": TOOLS,
        "conversations": CONVERSATIONS,
        "cases": cases,
    }
    (GOLDEN / "templates.json").write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", "utf-8")
    refused = [case for case in cases if "error" in case]
    print(f"{len(cases)} renderings of {len(sources)} templates, {len(refused)} refused:")
    for case in refused:
        print(f"  {case['template']}, {case['conversation']}, tools {case['tools']}: {case['error'][:100]}")


if __name__ == "__main__":
    main()
