"""Whatever a model would like to say, it says what the format allows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moltbot_models
from moltbot_models.engine import EngineError, TextEngine
from moltbot_models.generation import GenerationRequest, Message, ResponseFormat, Sampling, ToolSpec
from moltbot_testkit.engine import held
from moltbot_testkit.random_model import model_config, random_weights, write_model

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema_format(schema):
    return ResponseFormat("json_schema", json.dumps(schema))


def submit(engine, answer, wanted, *, hook=None, messages=(), tools=(), choice="auto", prompt="x", **sampling):
    request = GenerationRequest(
        "m",
        messages=messages,
        prompt=None if messages else prompt,
        tools=tools,
        tool_choice=choice,
        response_format=wanted,
        sampling=Sampling(**{"max_tokens": 300, **sampling}),
    )
    answer.handle = engine.submit(request, answer.put, on_error=answer.fail, hook=hook)
    return answer


SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": -5, "maximum": 99},
            {"enum": ["red", "gr\u00fcn", 7, None]},
            {"const": {"a": [1, 2]}},
            {"type": "string", "maxLength": 5},
            {"type": "string", "pattern": "^[a-c]{2,4}$"},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item, "maxItems": 2}, inner),
        st.builds(
            lambda one, two: {
                "type": "object",
                "properties": {"k": one, "\u00fc": two},
                "required": ["k"],
                "additionalProperties": False,
            },
            inner,
            inner,
        ),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    ),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_a_random_models_answer_is_valid_for_its_schema(engine, new_answer, schema, seed):
    # Numbers and white space have no bound of their own, so an answer may be cut at its length.
    answer = submit(engine, new_answer(), schema_format(schema), temperature=1.0, seed=seed).wait()
    assert answer.error is None
    if answer.last.finish_reason == "stop":
        jsonschema.validate(json.loads(answer.text), schema)
    else:
        assert answer.last.finish_reason == "length"


def test_most_answers_come_to_their_end(engine, new_answer):
    answers = [submit(engine, new_answer(), schema_format(PERSON), temperature=1.0, seed=seed) for seed in range(8)]
    ended = [answer.wait() for answer in answers if answer.wait().last.finish_reason == "stop"]
    assert len(ended) >= 6
    for answer in ended:
        jsonschema.validate(json.loads(answer.text), PERSON)


@pytest.mark.parametrize("pattern", ["[0-9]{4}-[0-9]{2}", "(ja|nein)", "a{1,9}b", "[\u4e00-\u4e0f]{3}"])
def test_an_answer_matches_its_regular_expression(engine, new_answer, pattern):
    for seed in range(5):
        answer = submit(engine, new_answer(), ResponseFormat("regex", pattern), temperature=1.0, seed=seed).wait()
        assert re.fullmatch(pattern, answer.text)
        assert answer.last.finish_reason == "stop"


def test_a_grammar_of_the_clients_own_is_kept(engine, new_answer):
    wanted = ResponseFormat("grammar", 'start: word ("," word)*\nword: /[a-z]{2}/')
    answer = submit(engine, new_answer(), wanted, temperature=1.0, seed=3, max_tokens=40).wait()
    assert re.fullmatch("[a-z]{2}(,[a-z]{2})*,?[a-z]?", answer.text)


def test_free_rows_in_the_batch_say_what_they_would_say_alone(engine, new_answer, ask):
    alone = ask(engine, "hello", max_tokens=40, temperature=0.0).wait().text
    bound = [submit(engine, new_answer(), schema_format(PERSON), temperature=1.0, seed=n) for n in range(4)]
    free = ask(engine, "hello", max_tokens=40, temperature=0.0)
    assert free.wait().text == alone
    for answer in bound:
        answer.wait()


def test_a_hook_chooses_among_what_is_allowed(engine, new_answer):
    class Gumbel:
        """Raises every token in turn; the constraint must win."""

        def alter(self, logits, contexts):
            for row in logits:
                row[65:91] += 100.0

        def choose(self, candidates, contexts):
            draw = np.random.default_rng(contexts[0].answered)
            noise = draw.gumbel(size=candidates.log_weights.shape)
            return candidates.tokens_at((candidates.log_weights + noise).argmax(axis=1))

    answer = submit(engine, new_answer(), ResponseFormat("regex", "[a-f]{20}"), temperature=1.0, hook=Gumbel()).wait()
    assert re.fullmatch("[a-f]{20}", answer.text)


def test_log_probabilities_are_the_models_own(engine, new_answer):
    wanted = ResponseFormat("regex", "(a|b)")
    answer = submit(engine, new_answer(), wanted, temperature=0.0, logprobs=True, top_logprobs=3).wait()
    (first, *_) = [one for delta in answer.deltas for one in delta.logprobs]
    assert first.token in {"a", "b"}
    assert first.logprob < 0
    assert {one.token for one in first.top} - {"a", "b"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (ResponseFormat("json_schema", "{"), "not JSON"),
        (ResponseFormat("json_schema", "[]"), "JSON object"),
        (ResponseFormat("json_schema", '{"type": "stri"}'), "json_schema cannot be used"),
        (ResponseFormat("json_schema", "[" * 100_000), "not JSON"),
        (ResponseFormat("json_schema", json.dumps({"$ref": "http://example.org/x"})), "json_schema cannot be used"),
        (ResponseFormat("regex", "("), "regex cannot be used"),
        (ResponseFormat("regex", "(?=a)b"), "regex cannot be used"),
        (ResponseFormat("grammar", "begin: x"), "grammar cannot be used"),
        (ResponseFormat("regex", "a" * 200_000), "KiB"),
    ],
)
def test_what_cannot_be_compiled_is_refused_at_once(engine, new_answer, wanted, said):
    with pytest.raises(EngineError, match=said) as refused:
        submit(engine, new_answer(), wanted)
    assert refused.value.reason == "INVALID_ARGUMENT"
    assert len(str(refused.value)) < 500


@pytest.mark.timeout(60)
def chained_schema(count):
    defs = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(count)}
    schema = {"$ref": "#/$defs/d0", "$defs": defs | {f"d{count}": {"type": "null"}}}
    return ResponseFormat("json_schema", json.dumps(schema, separators=(",", ":")))


def chained_rules(count):
    rules = (f'r{i}: "a" r{i + 1} | "b"' for i in range(count))
    return ResponseFormat("grammar", "\n".join(["start: r0", *rules, f'r{count}: "c"']))


@pytest.mark.parametrize("wanted", [chained_schema(1900), chained_rules(1900)], ids=["references", "rules"])
def test_a_form_that_leads_from_one_to_the_next_and_so_on_harms_nobody(engine, new_answer, wanted):
    # In a thread's usual stack the compiler's recursion ended the process.
    assert submit(engine, new_answer(), wanted, max_tokens=4).wait().error is None


@pytest.mark.parametrize("wanted", [chained_schema(2100), chained_rules(2100)], ids=["references", "rules"])
def test_too_long_a_chain_is_refused_and_remembered(engine, new_answer, wanted):
    for _ in range(2):
        with pytest.raises(EngineError, match="response_format: more than 2000"):
            submit(engine, new_answer(), wanted)


def test_a_hostile_schema_does_not_hold_the_engine_up(engine, new_answer, ask):
    deep = {"type": "string"}
    for _ in range(7):  # 16,384 leaves: half a megabyte
        deep = {"anyOf": [deep, {"type": "array", "items": deep}], "properties": {"a": deep, "b": deep}}
    with contextlib.suppress(EngineError):
        submit(engine, new_answer(), schema_format(deep), temperature=1.0, max_tokens=20).wait()
    assert ask(engine, "hello", max_tokens=3).wait(5).last.finish_reason == "length"


def test_a_preempted_answer_goes_on_in_its_grammar(llama_directory, exact, new_answer):
    engine = TextEngine.load(llama_directory, dataclasses.replace(exact, kv_cache_bytes=420_000))
    try:
        wanted = ResponseFormat("regex", "[ab]{200}")
        with held(engine):
            answers = [submit(engine, new_answer(), wanted, temperature=1.0, seed=n) for n in range(6)]
        for answer in answers:
            assert re.fullmatch("[ab]{200}", answer.wait().text)
        assert engine.stats().preemptions > 0
    finally:
        engine.close()


def test_stop_tokens_end_an_answer_and_are_no_text(engine, ask):
    plain = ask(engine, "hello", max_tokens=20, temperature=0.0, logprobs=True).wait()
    third = next(token for token in range(259) if engine._directory.vocabulary.bytes_of(token) == plain.raw[2])
    stopped = ask(engine, "hello", max_tokens=20, temperature=0.0, stop_token_ids=(third,)).wait()
    assert stopped.last.finish_reason == "stop"
    assert plain.text.startswith(stopped.text)
    assert stopped.last.usage.completion_tokens <= 3
    longer = ask(engine, "hello", max_tokens=20, temperature=0.0, stop_token_ids=(third,), min_tokens=10).wait()
    assert longer.last.usage.completion_tokens > 10


@pytest.mark.parametrize("token", [259, 2**31 - 1])
def test_a_stop_token_that_the_model_lacks_is_refused_and_costs_nobody_else(engine, ask, token):
    running = ask(engine, "hello", max_tokens=100, ignore_eos=True)
    with pytest.raises(EngineError, match="stop_token_ids") as refused:
        ask(engine, "hello", max_tokens=5, min_tokens=2, stop_token_ids=(token,))
    assert refused.value.reason == "INVALID_ARGUMENT"
    assert running.wait().last.finish_reason == "length"


def test_end_tokens_beyond_the_models_rows_harm_nobody(tmp_path, exact, ask):
    config = model_config("llama")
    write_model(tmp_path, config, random_weights(config), eos_token_id=[256, 999])
    engine = TextEngine.load(tmp_path, exact)
    try:
        assert ask(engine, "hello", max_tokens=5, min_tokens=5).wait().last.finish_reason == "length"
    finally:
        engine.close()


@pytest.fixture(scope="module")
def tiny():
    engine = TextEngine.load(TINY)
    yield engine
    engine.close()


CITY = ToolSpec("city", "where", json.dumps(PERSON))
PICK = ToolSpec(
    "pick", "one", '{"properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": false}'
)


@pytest.mark.parametrize("choice", ["city", "pick", "required"])
def test_a_demanded_call_keeps_to_the_tools_schema(tiny, new_answer, choice):
    for seed in range(4):
        answer = submit(
            tiny,
            new_answer(),
            None,
            messages=(Message("user", "What is the weather like in the blue town?"),),
            tools=(CITY, PICK),
            choice=choice,
            temperature=1.5,
            seed=seed,
        ).wait()
        pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
        assert answer.text == ""
        assert answer.last.finish_reason == "tool_calls"
        name = "".join(piece.name for piece in pieces)
        assert choice in {name, "required"}
        schema = json.loads({"city": CITY, "pick": PICK}[name].parameters)
        jsonschema.validate(json.loads("".join(piece.arguments for piece in pieces)), schema)


def test_a_format_and_a_demanded_call_exclude_each_other(tiny, new_answer):
    with pytest.raises(EngineError, match="cannot go with"):
        submit(
            tiny, new_answer(), schema_format(PERSON), messages=(Message("user", "hi"),), tools=(PICK,), choice="pick"
        )
    with pytest.raises(EngineError, match="min_tokens"):
        submit(tiny, new_answer(), schema_format(PERSON), min_tokens=5)
