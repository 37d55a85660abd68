from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_models.engine.sampler import DrawSettings, Sampler, draw_settings
from moltbot_models.generation import Sampling

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


def sampler(**changes):
    return Sampler(DrawSettings(**PLAIN | changes))


def logits(seed=0, size=50):
    return np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)


def kept(candidates, size):
    return set(range(size)) if candidates.tokens is None else set(candidates.tokens.tolist())


def test_draws_follow_the_distribution():
    row = logits(size=8)
    drawing = sampler(temperature=0.7)
    candidates = drawing.candidates(row)
    counts = np.bincount([drawing.draw(candidates) for _ in range(20_000)], minlength=8)
    wanted = np.exp(row / 0.7) / np.exp(row / 0.7).sum()
    np.testing.assert_allclose(counts / 20_000, wanted, atol=0.015)


def test_a_seed_repeats_its_draws_and_another_does_not():
    def drawn(seed):
        drawing = sampler(seed=seed)
        return [drawing.draw(drawing.candidates(logits(step, 1000))) for step in range(20)]

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)


def test_negative_seeds_are_seeds_too():
    drawing = sampler(seed=-5)
    assert drawing.draw(drawing.candidates(logits())) in range(50)


def test_a_temperature_too_low_to_divide_by_is_greedy():
    assert draw_settings(Sampling(temperature=1e-40), {}).temperature == 0.0


def test_top_k_keeps_the_k_most_likely():
    row = logits()
    assert kept(sampler(top_k=3).candidates(row), 50) == set(np.argsort(row)[-3:].tolist())


@given(st.integers(0, 1000), st.sampled_from([10, 3000]), st.floats(0.05, 0.999), st.floats(0.1, 30))
def test_top_p_keeps_the_smallest_set_that_reaches_it(seed, size, top_p, temperature):
    row = logits(seed, size)
    chosen = kept(sampler(top_p=top_p, temperature=temperature).candidates(row), size)
    scaled = row.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    total = probabilities[list(chosen)].sum()
    assert total >= top_p - 1e-5
    assert total - probabilities[list(chosen)].min() <= top_p + 1e-5
    assert probabilities[list(chosen)].min() >= np.delete(probabilities, list(chosen)).max(initial=0) - 1e-12


def test_min_p_drops_what_is_far_less_likely_than_the_best():
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert kept(sampler(min_p=0.25).candidates(row), 4) == {0, 1, 2}


def test_filters_combine_and_name_the_vocabulary_ids():
    row = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))
    candidates = sampler(top_k=3, top_p=0.7).candidates(row)
    assert [candidates.token_at(place) for place in range(len(candidates.log_weights))] == [1, 3]


def test_penalties_lower_what_was_said_before():
    row = np.array([2.0, 2.0, -1.0, 1.0], np.float32)
    sampler(frequency_penalty=0.5, presence_penalty=0.25).penalize(row, [3], [0, 0, 2])
    np.testing.assert_allclose(row, [2.0 - 1.25, 2.0, -1.75, 1.0])


def test_the_repetition_penalty_reaches_the_prompt_and_both_signs():
    row = np.array([2.0, 2.0, -1.0, 1.0], np.float32)
    sampler(repetition_penalty=2.0).penalize(row, [3], [2])
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
