"""The plain mark draws fairly, the same everywhere, and is found by whoever has the key."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_models.engine import TextEngine
from moltbot_models.engine.gumbel import GumbelMark, uniforms
from moltbot_models.engine.plain_mark import CONTEXT_TOKENS, context_seed, key_asked, read_keys, uniform
from moltbot_models.engine.sampler import Candidates, SamplingContext
from moltbot_models.generation import GenerationRequest, ResponseFormat, Sampling
from moltbot_testkit.random_model import model_config, random_weights, write_model

KEY, OTHER = bytes(range(32)), bytes(32)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=40)


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20))
def test_numbers_are_the_same_with_and_without_numpy(seed, tokens):
    found = uniforms(np.array(seed, np.uint64), np.array(tokens, np.int64)).tolist()
    assert found == [uniform(seed, token) for token in tokens]
    assert all(0 < one < 1 for one in found)


def test_numbers_are_those_of_splitmix64():
    # Source: the reference generator's first outputs from the seed 1234567.
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [uniform(1234567, place) for place in range(4)] == [((one >> 11) + 0.5) / 2**53 for one in outputs]


def test_numbers_are_spread_evenly():
    found = np.sort(uniforms(np.array(7, np.uint64), np.arange(100_000)))
    assert np.abs(found - np.linspace(0, 1, found.size)).max() < 1.63 / math.sqrt(found.size)


@given(TOKENS)
def test_a_seed_follows_from_the_last_four_tokens_unless_they_came_before(tokens):
    seed = context_seed(KEY, tokens)
    last = tokens[-CONTEXT_TOKENS:]
    before = [tokens[place : place + CONTEXT_TOKENS] for place in range(len(tokens) - CONTEXT_TOKENS)]
    if len(last) < CONTEXT_TOKENS or last in before:
        assert seed is None
    else:
        assert seed == context_seed(KEY, [2**31 - 1, *last])
        assert seed != context_seed(OTHER, tokens)


def test_a_context_is_not_found_between_tokens():
    assert context_seed(KEY, [0x01000000, 0x02000000, 0x03000000, 0x04000000, 0, 1, 2, 3, 4]) is not None
    shifted = [0x00000100, 0x00000200, 0x00000300, 0x00000400, 0x00000500, 9, 1, 2, 3, 4]
    assert context_seed(KEY, shifted) is not None


def test_a_token_that_is_not_known_yet_marks_nothing():
    assert context_seed(KEY, [1, 2, 3, -1]) is None


def context(output):
    return SamplingContext(GenerationRequest("m"), [1, *output], 1, None)  # pyright: ignore[reportArgumentType]


def test_the_draw_is_fair_over_contexts():
    weights = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    contexts = [context([number, 5, 6, 7]) for number in range(20_000)]
    candidates = Candidates(np.array([[10, 70_000, 3, 99]] * len(contexts)), np.array([weights] * len(contexts)))
    drawn = GumbelMark(KEY).choose(candidates, contexts)
    shares = [drawn.count(token) / len(drawn) for token in (10, 70_000, 3, 99)]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.012)


def test_beyond_the_likeliest_thousand_nothing_is_drawn():
    weights = np.zeros(5000, np.float32)
    weights[2000:3024] = 1e-3
    contexts = [context([number, 1, 2, 3]) for number in range(300)]
    found = GumbelMark(KEY).choose(Candidates(None, np.array([weights] * 300)), contexts)
    assert min(found) >= 2000
    assert max(found) < 3024
    assert len(set(found)) > 200


@pytest.fixture(scope="module")
def wide(tmp_path_factory, exact):
    config = model_config("llama", max_position_embeddings=2048)
    directory = tmp_path_factory.mktemp("wide")
    engine = TextEngine.load(write_model(directory, config, random_weights(config)), exact)
    yield engine
    engine.close()


def score(engine, raw, key):
    """Mean of `-log(1 - u)` over marked tokens, 1 without a mark; and how many there are."""
    tokens = {engine._directory.vocabulary.bytes_of(token): token for token in range(259)}
    said = [tokens[one] for one in raw]
    seeds = [context_seed(key, said[:place]) for place in range(len(said))]
    found = [-math.log1p(-uniform(seed, token)) for seed, token in zip(seeds, said, strict=True) if seed is not None]
    return sum(found) / len(found), len(found)


def test_a_marked_answer_is_found_with_its_key_alone(wide, ask):
    asked = {"max_tokens": 250, "temperature": 1.0, "ignore_eos": True, "logprobs": True, "seed": 3}
    marked = ask(wide, "once upon a time", hook=GumbelMark(KEY), **asked).wait()
    plain = ask(wide, "once upon a time", **asked).wait()
    mean, count = score(wide, marked.raw, KEY)
    noise = 5 / math.sqrt(count)
    assert mean > 1 + noise
    assert abs(score(wide, marked.raw, OTHER)[0] - 1) < noise
    assert abs(score(wide, plain.raw, KEY)[0] - 1) < noise
    again = ask(wide, "once upon a time", hook=GumbelMark(KEY), **asked).wait()
    assert again.raw == marked.raw


def test_a_constraint_leaves_the_mark_what_it_may_choose(wide, new_answer):
    answer = new_answer()
    request = GenerationRequest(
        "m",
        prompt="x",
        sampling=Sampling(max_tokens=300, temperature=1.0, logprobs=True),
        response_format=ResponseFormat("regex", "[a-p]{200}"),
    )
    wide.submit(request, answer.put, on_error=answer.fail, hook=GumbelMark(KEY))
    assert set(answer.wait().text) <= set("abcdefghijklmnop")
    mean, count = score(wide, answer.raw, KEY)
    assert mean > 1 + 4 / math.sqrt(count)


def test_keys_come_from_a_file_that_nobody_else_reads(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"a": KEY.hex()}))
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_keys(file)
    file.chmod(0o600)
    assert read_keys(file) == {"a": KEY}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": "zz"}', '{"a": "00"}'])
def test_a_file_that_holds_no_keys_is_refused_without_its_content(tmp_path, text):
    file = tmp_path / "keys.json"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ValueError, match=r"keys\.json") as refused:
        read_keys(file)
    assert "zz" not in str(refused.value)


def test_a_request_names_its_key_or_has_the_default():
    keys = {"a": KEY, "b": OTHER}
    assert key_asked(None, keys) is None
    assert key_asked({}, keys, "a") == KEY
    assert key_asked({"moltbot_mark": "b"}, keys, "a") == OTHER
    assert key_asked({"moltbot_mark": None}, keys, "a") is None
    for wrong in ("c", 3, ["a"]):
        with pytest.raises(ValueError, match="must name a key"):
            key_asked({"moltbot_mark": wrong}, keys)
