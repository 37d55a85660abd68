from __future__ import annotations

import resource

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
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ '{0.__class__.__base__}'.format(1).x }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ self.__init__.__globals__ }}",
        "{{ namespace(a=1).__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum.__globals__ }}",
    ],
)
def test_a_hostile_template_reaches_nothing(attack):
    with pytest.raises(EngineError):
        rendered(attack)


@pytest.mark.parametrize(
    "probe",
    ["{{ messages | map(attribute='__class__') | first | attr('__mro__') }}", "{{ raise_exception.__globals__ }}"],
)
def test_what_is_hidden_is_not_there(probe):
    assert rendered(probe) == ""


TURNS = "{% for a in range(90000) %}{% for b in range(90000) %}BODY{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='xxxxxxxx', l=[1]) %}{% for i in range(99) %}STEP{% endfor %}{{ n.x | length }}"


NESTED = (
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(99) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}END"
)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "bomb",
    [
        "{{ range(10 ** 9) | list }}",
        TURNS.replace("BODY", ""),
        TURNS.replace("BODY", "{% set x = a + b %}"),
        TURNS.replace("BODY", "x"),
        TURNS.replace("BODY", "{{ 'abc' | upper }}"),
        "{{ 'x' * 10 ** 10 }}",
        "{{ 10 ** 9 * 'x' }}",
        "{{ [1, 2] * 10 ** 9 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'x' | center(10 ** 10) }}",
        "{{ 'x'.ljust(10 ** 10) }}",
        "{{ '\t'.expandtabs(10 ** 10) }}",
        "{{ 'x' | indent(10 ** 10, true) }}",
        "{{ {'a': 1} | tojson(indent=10 ** 10) }}",
        "{{ [1] | batch(10 ** 10, 0) | list }}",
        "{{ [1] | slice(10 ** 10) | list }}",
        "{{ ('x' * 9999999).replace('x', 'y' * 9999999) }}",
        "{{ ('x' * 9999999) | replace('x', 'y' * 9999999) }}",
        "{{ ('y' * 9999999).join(['a'] * 9999999) }}",
        "{{ ['y' * 9999999] * 9999999 | join }}",
        "{{ (['y' * 9999999] * 999999) | join }}",
        "{{ (['y' * 9999999] * 999999) | map('string') | join }}",
        "{{ ''.join((['y' * 9999999] * 999999) | map('string')) }}",
        "{{ 'x'.translate({120: 'y' * 9999999}) }}",
        DOUBLING.replace("STEP", "{% set n.x = n.x + n.x %}"),
        DOUBLING.replace("STEP", "{% set n.x = n.x ~ n.x %}"),
        DOUBLING.replace("STEP", "{% set n.x = [n.x, n.x] | join %}"),
        DOUBLING.replace("STEP", "{% set n.x = n.x.replace('x', 'xx') %}"),
        DOUBLING.replace("STEP", "{% set n.x = '%s%s' % (n.x, n.x) %}"),
        DOUBLING.replace("STEP", "{% set n.x = '{0}{0}'.format(n.x) %}"),
        DOUBLING.replace("STEP", "{% set n.x = '%s%s' | format(n.x, n.x) %}"),
        DOUBLING.replace("STEP", "{% set n.l = n.l + n.l %}"),
        DOUBLING.replace("STEP", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
        NESTED.replace("END", "{{ n.x }}"),
        NESTED.replace("END", "{{ n.x | tojson }}"),
        NESTED.replace("END", "{{ n.x | string | length }}"),
        NESTED.replace("END", "{{ n.x ~ '' }}"),
        NESTED.replace("END", "{{ '%s' % n.x }}"),
        NESTED.replace("END", "{{ '{}'.format(n.x) }}"),
        NESTED.replace("END", "{{ n.x == n.y }}"),
        NESTED.replace("END", "{{ n.x in [n.y] }}"),
        NESTED.replace("END", "{{ n.x is eq(n.y) }}"),
        NESTED.replace("END", "{{ [n.x, n.y] | sort }}"),
        NESTED.replace("END", "{{ [n.x, n.y] | max | length }}"),
        "{{ [[1] * 999999] * 999999 }}",
        "{% macro m(k) %}{{ m(k + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m(k) %}{% if k %}{{ m(k - 1) }}{{ m(k - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    ],
)
def test_a_template_that_takes_all_time_or_memory_is_stopped(bomb):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineError):
        rendered(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_a_long_conversation_is_within_the_budget():
    source = "{% for m in messages %}{{ '<' ~ m.role + '>' + m.content | trim }}{% endfor %}"
    messages = [Message("user", "word " * 200)] * 5000
    assert len(rendered(source, messages)) > 5_000_000


def test_every_rendering_has_a_budget_of_its_own():
    template = ChatTemplate("{% for i in range(90) %}{{ 'x' * 100000 }}{% endfor %}", {})
    for _ in range(20):
        assert len(template.render(USER, ())) == 9_000_000


def test_a_broken_template_is_refused_at_load():
    with pytest.raises(EngineError) as refused:
        ChatTemplate("{% if %}", {})
    assert refused.value.reason == "MODEL_INVALID"
