"""Decides, step by step, which tokens of which sequences are computed. Knows nothing of models."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from moltbot_models.engine.blocks import BlockPool, block_hash, root_hash
from moltbot_models.engine.insets import Inset, content_between
from moltbot_models.engine.paged_attention import BLOCK_TOKENS

_TILE_TOKENS = 64
"""Rows that OpenVINO multiplies by a large matrix at one go: 72 rows by 8,960 columns take twice as long as 64 on two
threads (f32, u8 weights: 7.3 and 3.6 ms), those by 2,048 columns no longer (0.46 and 0.49)."""
_GROWTH_BLOCKS = 2
"""Blocks reserved at admission beyond the known tokens: less preemption, for little idle memory."""


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of one request and where they are in the cache."""

    tokens: list[int]
    """Prompt, then answer."""
    prompt_length: int
    max_length: int
    """Prompt and answer together; never more than the pool holds."""
    tenant: str = ""
    insets: tuple[Inset, ...] = ()
    """Images, in their order; kept to the end, for a preempted sequence is computed again."""
    arrival: int = 0
    """Order of arrival, set by the scheduler; kept across preemption."""
    computed: int = 0
    """Leading tokens whose keys and values are in the cache."""
    cached_prompt: int = 0
    """Prompt tokens found in the prefix cache at the first admission."""
    blocks: list[int] = field(default_factory=list[int])
    hashes: list[bytes] = field(default_factory=list[bytes])
    """Chained hashes of the full blocks of `tokens`, as far as they were needed."""
    published: int = 0
    admissions: int = 0

    @property
    def pending(self) -> int:
        """Tokens still to be computed; 1 while decoding."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `begin:end` of a sequence, to be computed in this step."""

    sequence: Sequence
    begin: int
    end: int

    @property
    def samples(self) -> bool:
        """Whether a new token follows from this chunk."""
        return self.end == len(self.sequence.tokens)


class Scheduler:
    """Oldest first; sequences join and leave at every step; the youngest makes room when blocks run out.

    Args:
        pool: The blocks.
        step_tokens: Tokens in one step. Running sequences never outnumber it, so each advances at every step or is
            next in line for the prompt budget.
        chunk_tokens: Prompt tokens in a step in which answers advance, for each prompt that is not computed yet, about:
            the step has a multiple of 64 tokens, within `step_tokens`. 0 for what the answers leave of `step_tokens`.
        fixed_chunks: Deterministic mode: prompts are cut at multiples of `step_tokens` alone, cached prefixes end
            there too, and all blocks a request may need are reserved at admission, so nothing is ever recomputed.
    """

    def __init__(self, pool: BlockPool, step_tokens: int, chunk_tokens: int = 0, *, fixed_chunks: bool = False) -> None:
        self._pool = pool
        self._step_tokens = step_tokens
        self._chunk_tokens = 0 if fixed_chunks else chunk_tokens
        self._fixed = fixed_chunks
        self._arrivals = 0
        self.waiting: deque[Sequence] = deque()
        """Oldest first; a preempted sequence returns to its place."""
        self.running: list[Sequence] = []
        """Oldest first."""
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; the caller has made sure that `max_length` fits into the pool."""
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and give its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._give_back(sequence)

    def plan(self) -> list[Chunk]:
        """Return the chunks of the next step; empty only if nothing runs or waits.

        Admits what fits, and reserves every block the chunks need.
        """
        self._admit()
        budget = self._step_tokens
        lengths: dict[int, int] = {}
        # One token for each decoding sequence first, so that a long prompt never stops the others' streams.
        for sequence in self.running:
            if sequence.pending == 1:
                lengths[sequence.arrival] = 1
                budget -= 0 if self._fixed else 1
        if lengths and self._chunk_tokens:
            # One arrival must not stop the answers, many must not wait for a few: each prompt brings a chunk.
            prompts = len(self.running) + len(self.waiting) - len(lengths)
            budget = min(budget, _whole_tiles(len(lengths), self._chunk_tokens * prompts))
        for sequence in self.running:
            if sequence.pending > 1:
                length = min(sequence.pending, self._chunk_limit(sequence, budget))
                if length < 1:
                    break
                lengths[sequence.arrival] = length
                budget -= length
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            length = lengths.get(sequence.arrival)
            # An earlier sequence's growth may have preempted this one meanwhile.
            if length and sequence in self.running and self._grow(sequence, sequence.computed + length):
                chunks.append(Chunk(sequence, sequence.computed, sequence.computed + length))
        return chunks

    def complete(self, chunk: Chunk) -> None:
        """Note that the chunk's keys and values are in the cache, and publish the blocks it filled."""
        sequence = chunk.sequence
        sequence.computed = chunk.end
        full = sequence.computed // BLOCK_TOKENS
        self._hash_up_to(sequence, full)
        for number in range(sequence.published, full):
            self._pool.publish(sequence.blocks[number], sequence.hashes[number])
        sequence.published = full

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._step_tokens:
            sequence = self.waiting[0]
            # The last token must be computed to have logits, so a cached prefix never covers it.
            full = (len(sequence.tokens) - 1) // BLOCK_TOKENS
            self._hash_up_to(sequence, full)
            keys = sequence.hashes[:full]
            known, _ = self._pool.peek(keys)
            if self._fixed:
                known = self._fixed_prefix(known)
            _, idle = self._pool.peek(keys[:known])
            wanted = self._reservation(sequence)
            # Idle cached blocks count as available, but taking them as prefix uses them up.
            if self._pool.available - idle < wanted - known:
                return
            self.waiting.popleft()
            sequence.blocks = self._pool.acquire(keys[:known])
            sequence.blocks += [self._pool.allocate() for _ in range(wanted - known)]
            sequence.computed = known * BLOCK_TOKENS
            sequence.published = known
            if sequence.admissions == 0:
                sequence.cached_prompt = min(sequence.computed, sequence.prompt_length)
            sequence.admissions += 1
            self.running.append(sequence)
            self.running.sort(key=lambda one: one.arrival)

    def _reservation(self, sequence: Sequence) -> int:
        limit = _blocks_for(sequence.max_length)
        return limit if self._fixed else min(limit, _blocks_for(len(sequence.tokens)) + _GROWTH_BLOCKS)

    def _chunk_limit(self, sequence: Sequence, budget: int) -> int:
        if not self._fixed:
            return budget
        size = self._step_tokens
        length = min(size - sequence.computed % size, sequence.pending)
        return length if length <= budget else 0

    def _fixed_prefix(self, known: int) -> int:
        blocks = known
        while blocks and (blocks * BLOCK_TOKENS) % self._step_tokens:
            blocks -= 1
        return blocks

    def _grow(self, sequence: Sequence, length: int) -> bool:
        while len(sequence.blocks) < _blocks_for(length):
            if self._pool.available:
                sequence.blocks.append(self._pool.allocate())
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        self.preemptions += 1
        place = sum(one.arrival < sequence.arrival for one in self.waiting)
        self.waiting.insert(place, sequence)

    def _give_back(self, sequence: Sequence) -> None:
        # Last block first: the beginning of a prompt is the part most worth keeping, so it is evicted last.
        for block in reversed(sequence.blocks):
            self._pool.release(block)
        sequence.blocks, sequence.computed, sequence.published = [], 0, 0

    def _hash_up_to(self, sequence: Sequence, full: int) -> None:
        for number in range(len(sequence.hashes), full):
            previous = sequence.hashes[-1] if sequence.hashes else root_hash(sequence.tenant)
            begin, end = number * BLOCK_TOKENS, (number + 1) * BLOCK_TOKENS
            content = content_between(sequence.insets, begin, end)
            sequence.hashes.append(block_hash(previous, sequence.tokens[begin:end], content))


def _whole_tiles(answers: int, prompt_tokens: int) -> int:
    """Prompt tokens near those wanted, at least half, with which the step is computed in whole tiles of rows."""
    nearest = (answers + prompt_tokens + _TILE_TOKENS // 2) // _TILE_TOKENS
    least = -(-(answers + (prompt_tokens + 1) // 2) // _TILE_TOKENS)
    return max(nearest, least) * _TILE_TOKENS - answers


def _blocks_for(length: int) -> int:
    return -(-length // BLOCK_TOKENS)
