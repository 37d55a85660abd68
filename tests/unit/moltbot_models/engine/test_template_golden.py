"""A conversation is rendered as transformers renders it, character for character, and refused where it refuses.

The file is written by `recipes/goldens/templates.py`; the templates are in the manner of the families'.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path

import pytest

from moltbot_models.engine import chat_template
from moltbot_models.engine.chat_template import ChatTemplate
from moltbot_models.engine.config import EngineError
from moltbot_models.generation import Message, ToolCall, ToolSpec

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "templates.json").read_text("utf-8"))


def message(one):
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], json.dumps(call["function"]["arguments"], ensure_ascii=False))
        for call in one.get("tool_calls", ())
    )
    return Message(
        one["role"], one["content"], one.get("name", ""), tool_calls=calls, tool_call_id=one.get("tool_call_id", "")
    )


CONVERSATIONS = {name: [message(one) for one in messages] for name, messages in GOLDEN["conversations"].items()}
TOOLS = [
    ToolSpec(one["function"]["name"], one["function"]["description"], json.dumps(one["function"]["parameters"]))
    for one in GOLDEN["tools"]
]


@pytest.fixture(scope="module", params=sorted(path.stem for path in (FOLDER / "templates").glob("*.jinja")))
def template(request):
    source = (FOLDER / "templates" / f"{request.param}.jinja").read_text("utf-8")
    return request.param, ChatTemplate(source, GOLDEN["special"])


def test_every_conversation_is_rendered_as_transformers_renders_it(template, monkeypatch):
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime.fromisoformat(GOLDEN["today"])

    monkeypatch.setattr(chat_template, "datetime", Clock)
    name, compiled = template
    cases = [case for case in GOLDEN["cases"] if case["template"] == name]
    assert len(cases) >= 2 * len(CONVERSATIONS)
    for case in cases:
        tools = TOOLS if case["tools"] else []
        if "text" in case:
            assert compiled.render(CONVERSATIONS[case["conversation"]], tools, case["options"]) == case["text"], case
        else:
            with pytest.raises(EngineError) as refused:
                compiled.render(CONVERSATIONS[case["conversation"]], tools, case["options"])
            assert case["error"] in str(refused.value)


def test_the_golden_has_renderings_and_refusals():
    counted = Counter("text" in case for case in GOLDEN["cases"])
    assert counted[True] > 150
    assert counted[False] >= 6
