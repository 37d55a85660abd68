from __future__ import annotations

import pytest

from moltbot_models.engine.chat_template import ChatTemplate
from moltbot_models.engine.config import EngineError
from moltbot_models.generation import Message, ToolCall, ToolSpec

USER = (Message("user", "hi"),)


def rendered(source, messages=USER, tools=(), **special):
    return ChatTemplate(source, special).render(messages, tools)


def test_blocks_are_trimmed_as_in_transformers():
    source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n"
    assert rendered(source) == "hi\n"


def test_tools_and_calls_arrive_as_objects():
    source = (
        "{{ tools[0].function | tojson }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ c.function.arguments.a }}{% endfor %}{% endfor %}"
    )
    calls = (Message("assistant", tool_calls=(ToolCall("1", "add", '{"a": "ü"}'),)),)
    out = rendered(source, calls, (ToolSpec("add", "Adds <b>", '{"type": "object"}'),))
    assert out == '{"name": "add", "description": "Adds <b>", "parameters": {"type": "object"}}ü'


def test_the_tool_template_is_taken_when_there_are_tools():
    sources = {"default": "plain", "tool_use": "tools"}
    assert rendered(sources) == "plain"
    assert rendered(sources, tools=(ToolSpec("add"),)) == "tools"


def test_special_tokens_generation_marks_and_the_prompt_flag_are_known():
    source = "{{ bos_token }}{% generation %}x{% endgeneration %}{% if add_generation_prompt %}>{% endif %}"
    assert rendered(source, bos_token="<s>") == "<s>x>"


def test_today_can_be_asked_for():
    assert rendered("{{ strftime_now('%Y') }}").isdigit()


def test_a_developer_message_is_a_system_message_to_models_that_know_no_other():
    assert rendered("{{ messages[0].role }}", (Message("developer", "be brief"),)) == "system"
    assert rendered("{{ messages[0].role }}{# developer #}", (Message("developer", "be brief"),)) == "developer"


def test_a_template_that_refuses_says_why():
    with pytest.raises(EngineError, match="roles must alternate") as refused:
        rendered("{{ raise_exception('roles must alternate') }}")
    assert refused.value.reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
    ],
)
def test_a_hostile_template_reaches_nothing(attack):
    with pytest.raises(EngineError):
        rendered(attack)


def test_a_broken_template_is_refused_at_load():
    with pytest.raises(EngineError) as refused:
        ChatTemplate("{% if %}", {})
    assert refused.value.reason == "MODEL_INVALID"
