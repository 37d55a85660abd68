"""Calls as Llama 3 and Mistral write them, however the stream is cut; and how each dialect demands one."""

from __future__ import annotations

import json
from itertools import pairwise

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_models.engine import EngineError, TextEngine
from moltbot_models.engine.deepseek_calls import DeepSeekToolCalls
from moltbot_models.engine.json_calls import LlamaToolCalls, MistralToolCalls
from moltbot_models.engine.tool_dialects import DEEPSEEK, DEEPSEEK_FENCED, HERMES, LLAMA, MISTRAL, dialect_of
from moltbot_models.generation import GenerationRequest, Message, Sampling, ToolSpec
from moltbot_testkit.random_model import CHATML, model_config, random_weights, write_model

ARGUMENTS = {"a": '}"{', "b": [1, {"c": 2}]}
LLAMA_CALL = json.dumps({"name": "add", "parameters": ARGUMENTS})
LIST = json.dumps([{"name": "add", "arguments": ARGUMENTS}, {"name": "sub", "arguments": {}, "id": "x"}])
NAMED = f"[TOOL_CALLS]add[ARGS]{json.dumps(ARGUMENTS)}[TOOL_CALLS]sub[CALL_ID]abc[ARGS]{{}}"
CUTS = st.lists(st.integers(0, 140), max_size=12)


def parsed(parser, text, cuts=()):
    plain, calls = "", {}
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    results = [parser.push(text[begin:end]) for begin, end in pairwise(edges)]
    for piece, deltas in [*results, parser.finish()]:
        plain += piece
        for delta in deltas:
            call = calls.setdefault(delta.index, ["", ""])
            call[0] += delta.name
            call[1] += delta.arguments
    return plain, [(name, json.loads(arguments)) for name, arguments in calls.values()]


@given(CUTS, st.sampled_from(["", " \n", "<|python_tag|>", "<|python_tag|> "]))
def test_llamas_call_is_found_however_the_stream_is_cut(cuts, before):
    assert parsed(LlamaToolCalls(), before + LLAMA_CALL, cuts) == ("", [("add", ARGUMENTS)])


@given(CUTS)
def test_llamas_calls_follow_each_other(cuts):
    found = parsed(LlamaToolCalls(), f'{LLAMA_CALL}; {{"name": "sub", "parameters": {{}}}}\n', cuts)
    assert found == ("", [("add", ARGUMENTS), ("sub", {})])


@pytest.mark.parametrize(
    "text", ["Hello {x}", '{"answer": 42} is it', "{", "<|python", "<b>", '{"name": 3}', ' {"name": "a"', "7 {", ""]
)
def test_what_is_no_call_of_llamas_stays_text(text):
    for cut in range(len(text)):
        assert parsed(LlamaToolCalls(), text, [cut]) == (text, [])


@given(CUTS, st.sampled_from([f"[TOOL_CALLS]{LIST}", f"[TOOL_CALLS] {LIST}\n", NAMED]), st.sampled_from(["", "Sure. "]))
def test_mistrals_calls_are_found_however_the_stream_is_cut(cuts, text, before):
    assert parsed(MistralToolCalls(), before + text, cuts) == (before, [("add", ARGUMENTS), ("sub", {})])


@pytest.mark.parametrize(
    "text", ["a [TOOL b", "[TOOL_CALLS", "[TOOL_CALLS]no call", "[TOOL_CALLS][1]", "[ARGS]{}", "x["]
)
def test_what_is_no_call_of_mistrals_stays_text(text):
    for cut in range(len(text)):
        assert parsed(MistralToolCalls(), text, [cut]) == (text, [])


BARS = DEEPSEEK.tags
FENCED = "{0}{1}function{2}add\n```json\n%s\n```{3}\n{1}function{2}sub\n```json\n{{}}\n```{3}{4}".format(*BARS)
PLAIN = "{0}{1}add{2}%s{3}{1}sub{2}{{}}{3}{4}".format(*BARS)


@given(st.lists(st.integers(0, 260), max_size=12), st.sampled_from([FENCED, PLAIN]), st.sampled_from(["", "So. "]))
def test_deepseeks_calls_are_found_however_the_stream_is_cut(cuts, text, before):
    text = before + text % json.dumps(ARGUMENTS)
    assert parsed(DeepSeekToolCalls(), text, cuts) == (before, [("add", ARGUMENTS), ("sub", {})])


@pytest.mark.parametrize("missing", [BARS[4], BARS[3] + BARS[4]])
def test_missing_tags_at_the_end_lose_no_call_of_deepseeks(missing):
    text = PLAIN % json.dumps(ARGUMENTS)
    assert parsed(DeepSeekToolCalls(), text.removesuffix(missing)) == ("", [("add", ARGUMENTS), ("sub", {})])


@pytest.mark.parametrize(
    "text",
    [
        f"a {BARS[0][:8]} b",
        BARS[0],
        f"{BARS[0]}no call",
        f"{BARS[0]}{BARS[1]}x{BARS[2]}[1]{BARS[3]}{BARS[4]}",
        f"x{BARS[0][:2]}",
    ],
)
def test_what_is_no_call_of_deepseeks_stays_text(text):
    for cut in range(len(text)):
        assert parsed(DeepSeekToolCalls(), text, [cut]) == (text, [])


def test_the_template_tells_the_dialect():
    assert dialect_of(f"{BARS[0]}'\\n```json'") is DEEPSEEK_FENCED
    assert dialect_of("<\uff5ctool\u2581calls\u2581begin\uff5c>") is DEEPSEEK
    assert dialect_of(CHATML) is HERMES
    assert dialect_of("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]") is MISTRAL
    assert dialect_of("{{ '<|python_tag|>' }}") is LLAMA
    assert dialect_of("""{"name": x, "parameters": y} ipython""") is LLAMA
    assert dialect_of("{{ messages }}") is None


@pytest.mark.parametrize("other", ["<tool_call>{{ name }}<arg_key>", "<tool_call><function={{ name }}>"])
def test_calls_in_the_same_tags_that_are_written_otherwise_are_refused_by_name(other):
    with pytest.raises(EngineError, match="GLM or Qwen3-Coder"):
        dialect_of(other)


SCHEMA = {"properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
TOOLS = (ToolSpec("pick", "one", json.dumps(SCHEMA)), ToolSpec("place", "two", json.dumps(SCHEMA)))


@pytest.mark.parametrize("marker", ["[TOOL_CALLS]", "<|python_tag|>", "<tool_call>", BARS[0], f"{BARS[0]}```json"])
@pytest.mark.parametrize("choice", ["pick", "required"])
def test_a_demanded_call_keeps_to_its_schema_in_every_dialect(tmp_path, exact, new_answer, marker, choice):
    config = model_config("llama", max_position_embeddings=2048)
    write_model(tmp_path, config, random_weights(config))
    template = CHATML.replace("<tool_call>", marker)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    engine = TextEngine.load(tmp_path, exact)
    try:
        for seed in range(3):
            answer = new_answer()
            request = GenerationRequest(
                "m",
                messages=(Message("user", "hi"),),
                tools=TOOLS,
                tool_choice=choice,
                sampling=Sampling(max_tokens=900, temperature=1.0, seed=seed),
            )
            engine.submit(request, answer.put, on_error=answer.fail)
            assert answer.wait().error is None
            assert answer.last.finish_reason == "tool_calls"
            assert answer.text == ""
            pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
            assert "".join(piece.name for piece in pieces) in ({"pick"} if choice == "pick" else {"pick", "place"})
            jsonschema.validate(json.loads("".join(piece.arguments for piece in pieces)), SCHEMA)
    finally:
        engine.close()
