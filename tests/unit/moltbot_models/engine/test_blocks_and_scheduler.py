"""The scheduler under random orders: no block leaks, none is shared wrongly, everything ends."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moltbot_models.engine.blocks import BlockPool, block_hash, root_hash
from moltbot_models.engine.scheduler import Scheduler, Sequence

BLOCK = 32


class ServingMachine(RuleBasedStateMachine):
    """Arrivals, steps and cancellations in any order, with a model that only remembers what each block holds."""

    @initialize(
        blocks=st.integers(2, 12),
        step_tokens=st.sampled_from([1, 7, 32, 64, 200]),
        chunk_tokens=st.sampled_from([0, 5, 64]),
        fixed=st.booleans(),
    )
    def start(self, blocks, step_tokens, chunk_tokens, fixed):
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(self.pool, step_tokens, chunk_tokens, fixed_chunks=fixed)
        self.step_tokens, self.chunk_tokens, self.fixed = step_tokens, chunk_tokens, fixed
        self.content: list[list[tuple[str, tuple[int, ...]] | None]] = [[None] * BLOCK for _ in range(blocks)]
        self.alive: list[Sequence] = []

    @rule(
        prompt=st.integers(1, 150),
        answer=st.integers(1, 150),
        tenant=st.sampled_from("ab"),
        kind=st.integers(0, 2),
    )
    def arrive(self, prompt, answer, tenant, kind):
        limit = self.pool.count * BLOCK
        prompt = min(prompt, limit - 1)
        # Few kinds of prompts, so that prefixes are shared often.
        tokens = [kind] * prompt
        sequence = Sequence(tokens, prompt, min(limit, prompt + answer), tenant)
        self.scheduler.add(sequence)
        self.alive.append(sequence)

    @precondition(lambda self: getattr(self, "alive", None))
    @rule(token=st.integers(0, 2), steps=st.integers(1, 12))
    def step(self, token, steps):
        for _ in range(steps):
            if self.alive:
                self.run_step(token)

    @precondition(lambda self: getattr(self, "alive", None))
    @rule(which=st.integers(0, 1000))
    def cancel(self, which):
        self.end(self.alive[which % len(self.alive)])

    def end(self, sequence):
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)

    def compute(self, chunks):
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks)
        decoding = sum(chunk.end - chunk.begin == 1 for chunk in chunks)
        tokens = sum(chunk.end - chunk.begin for chunk in chunks)
        assert tokens <= self.step_tokens + (decoding if self.fixed else 0)
        advancing = sum(len(chunk.sequence.tokens) - chunk.begin == 1 for chunk in chunks)
        if advancing and self.chunk_tokens and not self.fixed:
            most = self.chunk_tokens * (len(self.alive) - advancing)
            assert tokens - advancing <= most + 64, "answers wait for more than a chunk of each prompt, and a tile"
        for chunk in chunks:
            sequence = chunk.sequence
            assert len(sequence.blocks) * BLOCK >= chunk.end
            for place in range(chunk.begin, chunk.end):
                block = sequence.blocks[place // BLOCK]
                assert self.pool.references(block) == 1, "a shared block is written to"
                self.content[block][place % BLOCK] = (sequence.tenant, tuple(sequence.tokens[: place + 1]))
        for chunk in chunks:
            for place in range(chunk.end):
                found = self.content[chunk.sequence.blocks[place // BLOCK]][place % BLOCK]
                expected = (chunk.sequence.tenant, tuple(chunk.sequence.tokens[: place + 1]))
                assert found == expected, "attention would read another sequence's keys"

    @invariant()
    def blocks_are_counted(self):
        if not hasattr(self, "pool"):
            return
        held = Counter(block for sequence in self.alive for block in sequence.blocks)
        for block in range(self.pool.count):
            assert self.pool.references(block) == held[block]
        assert self.pool.free + self.pool.cached + len(held) == self.pool.count
        assert len(self.scheduler.running) + len(self.scheduler.waiting) == len(self.alive)

    @invariant()
    def the_oldest_comes_first(self):
        if hasattr(self, "scheduler"):
            for group in (self.scheduler.running, self.scheduler.waiting):
                assert [one.arrival for one in group] == sorted(one.arrival for one in group)

    def teardown(self):
        for _ in range(20_000):
            if not getattr(self, "alive", None):
                break
            self.run_step(0)
        assert not getattr(self, "alive", None), "requests starve"
        if hasattr(self, "pool"):
            assert self.pool.available == self.pool.count

    def run_step(self, token):
        chunks = self.scheduler.plan()
        assert chunks, "something waits, yet nothing is computed"
        self.compute(chunks)
        for chunk in chunks:
            self.scheduler.complete(chunk)
            if chunk.samples:
                chunk.sequence.tokens.append(token)
                if len(chunk.sequence.tokens) >= chunk.sequence.max_length:
                    self.end(chunk.sequence)


ServingMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("MOLTBOT_SCHEDULER_RUNS", "60")),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestServing = ServingMachine.TestCase


def sequence_of(length, answer=1, tenant=""):
    return Sequence([1] * length, length, length + answer, tenant)


def test_decoding_sequences_advance_beside_a_long_prompt():
    scheduler = Scheduler(BlockPool(20), 64)
    short, long = sequence_of(4, 50), sequence_of(400)
    scheduler.add(short)
    for chunk in scheduler.plan():
        scheduler.complete(chunk)
    short.tokens.append(1)
    scheduler.add(long)
    chunks = scheduler.plan()
    assert [(chunk.sequence, chunk.end - chunk.begin) for chunk in chunks] == [(short, 1), (long, 63)]


def test_prompts_take_small_steps_beside_answers_and_whole_ones_alone():
    scheduler = Scheduler(BlockPool(40), 256, 64)
    short, first, second = sequence_of(4, 50), sequence_of(400), sequence_of(400)
    scheduler.add(short)
    for chunk in scheduler.plan():
        scheduler.complete(chunk)
    short.tokens.append(1)
    scheduler.add(first)
    chunks = scheduler.plan()
    assert [(chunk.sequence, chunk.end - chunk.begin) for chunk in chunks] == [(short, 1), (first, 63)]
    scheduler.add(second)
    chunks = scheduler.plan()
    assert [(chunk.sequence, chunk.end - chunk.begin) for chunk in chunks] == [(short, 1), (first, 127)]
    scheduler.remove(short)
    chunks = scheduler.plan()
    assert [(chunk.sequence, chunk.end - chunk.begin) for chunk in chunks] == [(first, 256)]


@pytest.mark.parametrize(
    ("answers", "chunk", "computed"),
    [
        (1, 56, 64),
        (8, 56, 64),
        (30, 56, 64),
        (40, 56, 128),
        (64, 5, 128),
        (63, 32, 128),
        (47, 48, 128),
        (8, 120, 128),
        (8, 300, 256),
    ],
)
def test_a_step_with_answers_has_whole_tiles_of_rows(answers, chunk, computed):
    scheduler = Scheduler(BlockPool(200), 256, chunk)
    under_way = [sequence_of(1, 50) for _ in range(answers)]
    for sequence in under_way:
        scheduler.add(sequence)
    for planned in scheduler.plan():
        scheduler.complete(planned)
        planned.sequence.tokens.append(1)
    scheduler.add(sequence_of(400))
    chunks = scheduler.plan()
    assert sum(planned.end - planned.begin for planned in chunks) == computed
    assert len(chunks) == answers + 1


def test_the_youngest_makes_room_and_returns_to_its_place():
    pool = BlockPool(8)
    scheduler = Scheduler(pool, 64)
    old, young = sequence_of(20, 200), sequence_of(20, 200)
    scheduler.add(old)
    scheduler.add(young)
    while not scheduler.preemptions:
        for chunk in scheduler.plan():
            scheduler.complete(chunk)
            if chunk.samples:
                chunk.sequence.tokens.append(1)
    assert scheduler.running == [old]
    assert list(scheduler.waiting) == [young]
    assert young.blocks == []


def test_the_least_recently_used_content_is_given_away_first():
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.publish(first, b"one")
    pool.publish(second, b"two")
    pool.release(first)
    pool.release(second)
    pool.allocate()
    assert pool.peek([b"one"]) == (0, 0)
    assert pool.peek([b"two"]) == (1, 1)


def test_a_block_released_twice_is_an_error():
    pool = BlockPool(1)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(block)


def test_hashes_tell_tenants_positions_and_tokens_apart():
    tokens = list(range(BLOCK))
    hashes = {
        block_hash(root_hash("a"), tokens),
        block_hash(root_hash("b"), tokens),
        block_hash(block_hash(root_hash("a"), tokens), tokens),
        block_hash(root_hash("a"), tokens[::-1]),
    }
    assert len(hashes) == 4
