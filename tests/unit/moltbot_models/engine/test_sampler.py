from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_models.engine.draw import candidates_of, draw, largest
from moltbot_models.engine.logprobs import token_logprobs
from moltbot_models.engine.sampler import DrawSettings, Sampler, SamplingContext, draw_settings
from moltbot_models.generation import GenerationRequest, Sampling

PLAIN = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "seed": 1,
}


def chosen_settings(**changes):
    return DrawSettings(**PLAIN | changes)


def logits(seed=0, size=50):
    return np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)


def candidates(row, **changes):
    return candidates_of(row[None], chosen_settings(**changes))


def kept(found, row=0):
    """The tokens that may be drawn in a row."""
    places = np.flatnonzero(np.isfinite(found.log_weights[row]))
    return set((places if found.tokens is None else found.tokens[row][places]).tolist())


def drawn(row, sampler):
    return draw(candidates_of(row[None], sampler.settings), [sampler.uniform()])[0]


@pytest.mark.parametrize(
    ("size", "changes"), [(8, {}), (8, {"top_k": 8}), (8, {"top_p": 0.999999}), (1000, {}), (1000, {"top_k": 999})]
)
def test_draws_follow_the_distribution(size, changes):
    row, rounds = logits(size=size), 40_000
    found = candidates_of(np.stack([row] * 100), chosen_settings(temperature=0.7, **changes))
    numbers = np.random.default_rng(1).random((rounds // 100, 100))
    counts = np.bincount([token for share in numbers for token in draw(found, share)], minlength=size)
    wanted = np.exp(row / 0.7) / np.exp(row / 0.7).sum()
    np.testing.assert_allclose(counts / rounds, wanted, atol=0.015)
    # Pearson's statistic over what is expected at least five times: its mean is the degrees of freedom.
    common = wanted * rounds >= 5
    statistic = ((counts - wanted * rounds)[common] ** 2 / (wanted * rounds)[common]).sum()
    freedom = common.sum() - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [1, 7, 127, 128, 129, 1000])
def test_the_ends_of_the_random_numbers_draw_the_first_and_the_last_token_of_some_weight(size):
    row = logits(size=size)
    row[[0, -1]] = -np.inf if size > 2 else 0.0
    first, last = np.flatnonzero(np.isfinite(row))[[0, -1]]
    found = candidates_of(np.stack([row, row]), chosen_settings())
    assert draw(found, [0.0, np.nextafter(1.0, 0.0)]) == [first, last]


def test_a_seed_repeats_its_draws_and_another_does_not():
    def text(seed):
        sampler = Sampler(chosen_settings(seed=seed))
        return [drawn(logits(step, 1000), sampler) for step in range(20)]

    assert text(5) == text(5)
    assert text(5) != text(6)


@given(st.integers(0, 1000), st.sampled_from([10, 700, 3000]), st.integers(1, 100), st.sampled_from([0.2, 2.0]))
def test_a_row_is_drawn_alike_alone_and_among_others(seed, size, top_k, spread):
    rows = np.random.default_rng(seed).normal(0, spread, (5, size)).astype(np.float32)
    shares = np.random.default_rng(seed).random(5)
    for changes in ({}, {"top_k": top_k}, {"top_p": 0.9}, {"top_k": top_k, "top_p": 0.8, "min_p": 0.01}):
        settings = chosen_settings(**changes)
        alone = [draw(candidates_of(row[None], settings), [share])[0] for row, share in zip(rows, shares, strict=True)]
        assert draw(candidates_of(rows, settings), shares) == alone


@given(
    st.integers(0, 1000),
    st.sampled_from([(1, 1), (3, 40), (2, 511), (2, 1024), (4, 3000), (1, 5001)]),
    st.integers(1, 1200),
    st.sampled_from([0, 3, 1000]),
)
def test_the_largest_are_those_of_a_full_sort(seed, shape, count, forbidden):
    draws = np.random.default_rng(seed)
    # Few different values, so that many are equal.
    rows = draws.integers(-20, 20, shape).astype(np.float32)
    for row in rows:
        row[draws.permutation(shape[1])[: min(forbidden, shape[1] - 1)]] = -np.inf
    places, values = largest(rows, count)
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    wanted = np.take_along_axis(rows, order, axis=1)
    np.testing.assert_array_equal(values, wanted[:, np.isfinite(wanted).any(axis=0)])
    finite = np.isfinite(values)
    np.testing.assert_array_equal(places[finite], order[:, : values.shape[1]][finite])


def test_log_probabilities_are_those_of_the_softmax():
    rows = np.stack([logits(1, 2000), logits(2, 2000)])
    wanted = rows - np.log(np.exp(rows.astype(np.float64)).sum(axis=1, keepdims=True))

    class Numbers:
        @staticmethod
        def bytes_of(token):
            return str(token).encode()

    first, second = token_logprobs(rows, [5, 7], [0, 3], Numbers())
    assert (first.token, first.top, second.token_bytes) == ("5", (), b"7")
    assert first.logprob == pytest.approx(wanted[0, 5], abs=1e-5)
    best = np.argsort(-rows[1])[:3]
    assert [one.token for one in second.top] == [str(token) for token in best]
    np.testing.assert_allclose([one.logprob for one in second.top], wanted[1, best], atol=1e-5)


def test_negative_seeds_are_seeds_too():
    assert drawn(logits(), Sampler(chosen_settings(seed=-5))) in range(50)


def test_a_temperature_too_low_to_divide_by_is_greedy():
    assert draw_settings(Sampling(temperature=1e-40), {}).temperature == 0.0


def test_top_k_keeps_the_k_most_likely():
    row = logits()
    assert kept(candidates(row, top_k=3)) == set(np.argsort(row)[-3:].tolist())


@given(st.integers(0, 1000), st.sampled_from([10, 3000]), st.floats(0.05, 0.999), st.floats(0.1, 30))
def test_top_p_keeps_the_smallest_set_that_reaches_it(seed, size, top_p, temperature):
    row = logits(seed, size)
    chosen = kept(candidates(row, top_p=top_p, temperature=temperature))
    scaled = row.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    total = probabilities[list(chosen)].sum()
    assert total >= top_p - 1e-5
    assert total - probabilities[list(chosen)].min() <= top_p + 1e-5
    assert probabilities[list(chosen)].min() >= np.delete(probabilities, list(chosen)).max(initial=0) - 1e-12


def test_min_p_drops_what_is_far_less_likely_than_the_best():
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert kept(candidates(row, min_p=0.25)) == {0, 1, 2}


def test_filters_combine_and_name_the_vocabulary_ids():
    row = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))
    found = candidates(row, top_k=3, top_p=0.7)
    assert [found.tokens_at(np.array([place]))[0] for place in range(found.log_weights.shape[1])] == [1, 3]


def penalize(row, prompt, output, **changes):
    settings = chosen_settings(**changes)
    Sampler(settings).penalize(row, SamplingContext(GenerationRequest("m"), prompt + output, len(prompt), settings))


def test_penalties_lower_what_was_said_before():
    row = np.array([2.0, 2.0, -1.0, 1.0], np.float32)
    penalize(row, [3], [0, 0, 2], frequency_penalty=0.5, presence_penalty=0.25)
    np.testing.assert_allclose(row, [2.0 - 1.25, 2.0, -1.75, 1.0])


def test_the_repetition_penalty_reaches_the_prompt_and_both_signs():
    row = np.array([2.0, 2.0, -1.0, 1.0], np.float32)
    penalize(row, [3], [2], repetition_penalty=2.0)
    np.testing.assert_allclose(row, [2.0, 2.0, -2.0, 0.5])


@pytest.mark.parametrize(
    ("defaults", "temperature", "top_k"),
    [
        ({}, 0.0, 0),
        ({"temperature": 0.6, "top_k": 20}, 0.0, 0),
        ({"do_sample": True}, 1.0, 0),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, 0.6, 20),
    ],
)
def test_what_the_request_leaves_open_comes_from_the_model(defaults, temperature, top_k):
    settings = draw_settings(Sampling(), defaults)
    assert (settings.temperature, settings.top_k) == (temperature, top_k)


def test_the_request_overrides_the_model():
    settings = draw_settings(Sampling(temperature=0.0, top_k=-1, top_p=0.5), {"do_sample": True, "top_k": 20})
    assert (settings.temperature, settings.top_k, settings.top_p) == (0.0, 0, 0.5)
