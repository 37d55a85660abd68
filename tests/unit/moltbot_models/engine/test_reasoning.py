"""Thoughts come apart from the answer, however the text is cut into pieces."""

from __future__ import annotations

import json
import random

import pytest

from moltbot_models.engine import TextEngine
from moltbot_models.engine.answer import Answer
from moltbot_models.engine.model_directory import read_model_directory
from moltbot_models.engine.prompting import build_prompt
from moltbot_models.engine.reasoning import ThinkTags
from moltbot_models.generation import GenerationRequest, Message, ResponseFormat, Sampling, ToolSpec, Usage
from moltbot_testkit.random_model import model_config, random_weights, write_model

# As Qwen3's: `enable_thinking: false` closes the thoughts at once; `opens` plays DeepSeek-R1's, which begins them.
TEMPLATE = """{%- for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}
{% endfor %}assistant: {% if opens is defined %}<think>
{% elif enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% if tools %}<tool_call>{% endif %}"""
CASES = [
    ("<think>\nSo 2 + 2.\n</think>\n\nIt is 4.", False, ("So 2 + 2.", "It is 4.")),
    ("So 2 + 2.\n</think>\n\nIt is 4.", True, ("So 2 + 2.", "It is 4.")),
    ("  \n<think>a</think>b", False, ("a", "b")),
    ("It is 4.", False, ("", "It is 4.")),
    (" It is < 4, <b>.", False, ("", " It is < 4, <b>.")),
    ("<think>\n\n</think>\n\nIt is 4.", False, ("", "It is 4.")),
    ("<think>a < b </thin and so on", False, ("a < b </thin and so on", "")),
    ("a</think>b <think>c</think> d", True, ("a", "b <think>c</think> d")),
    ("Answer with <think>tags</think> in it", False, ("", "Answer with <think>tags</think> in it")),
    ("<think>x y  \n z</think>", False, ("x y  \n z", "")),
    ("<thin", False, ("", "<thin")),
    ("", True, ("", "")),
]


@pytest.mark.parametrize(("text", "inside", "expected"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_thoughts_and_answer_come_apart(text, inside, expected, seed):
    draw, parser, place = random.Random(seed), ThinkTags(inside=inside), 0
    found = ["", ""]
    while place < len(text):
        size = 1 if seed == 0 else draw.randint(1, 9)
        for side, part in enumerate(parser.push(text[place : place + size])):
            found[side] += part
        place += size
    for side, part in enumerate(parser.finish()):
        found[side] += part
    assert tuple(found) == expected


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("thinks"), model_config("qwen3"), random_weights(model_config("qwen3")))
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return path


def asked(**changes):
    return GenerationRequest("m", (Message("user", "2 + 2?"),), sampling=Sampling(max_tokens=8), **changes)


def spoken(directory, text, **changes):
    """What a caller sees of an answer with that text."""
    model = read_model_directory(directory)
    request = asked(**changes)
    answer = Answer(model, request, build_prompt(model, request, 10_000, 500))
    deltas = [answer.push(token, None) for token in model.tokenizer.encode(text, add_special_tokens=False).ids]
    deltas = [delta for delta in deltas if delta is not None]
    deltas.append(answer.finish(None, "stop", Usage(1, 2)))
    return "".join(d.reasoning for d in deltas), "".join(d.text for d in deltas)


def test_an_answer_carries_its_thoughts_beside_its_text(directory):
    assert spoken(directory, "<think>\nwell\n</think>\n\nIt is 4.") == ("well", "It is 4.")
    assert spoken(directory, "well</think>It is 4.", template_options=(("opens", True),)) == ("well", "It is 4.")
    assert spoken(directory, "It is 4.", template_options=(("enable_thinking", False),)) == ("", "It is 4.")


def test_a_form_closes_the_thoughts_that_a_template_opens(directory):
    model = read_model_directory(directory)
    wanted = ResponseFormat("json_object")
    request = asked(template_options=(("opens", True),), response_format=wanted)
    prompt = build_prompt(model, request, 10_000, 500)
    assert model.tokenizer.decode(prompt.tokens).endswith("<think>\n</think>\n\n")
    assert prompt.thoughts == "none"
    text = '{"a": "<think>"}'
    assert spoken(directory, text, template_options=(("opens", True),), response_format=wanted) == ("", text)


def test_a_demanded_call_is_no_thought(directory):
    model = read_model_directory(directory)
    request = asked(tools=(ToolSpec("add"),), tool_choice="required", template_options=(("opens", True),))
    assert build_prompt(model, request, 10_000, 500).thoughts == "none"


def test_options_cannot_take_the_place_of_what_every_template_is_given(directory):
    model = read_model_directory(directory)
    told = asked(template_options=(("messages", "other"), ("add_generation_prompt", False)))
    assert build_prompt(model, told, 10_000, 500).tokens == build_prompt(model, asked(), 10_000, 500).tokens


def test_a_model_that_does_not_think_keeps_its_tags(tmp_path, exact, ask):
    config = model_config("llama")
    engine = TextEngine.load(write_model(tmp_path, config, random_weights(config)), exact)
    try:
        answer = ask(engine, "<think>", max_tokens=4, ignore_eos=True).wait()
        assert not any(delta.reasoning for delta in answer.deltas)
    finally:
        engine.close()
