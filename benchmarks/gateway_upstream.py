"""The upstream of the gateway's benchmark: the OpenAI API, answering at once. Its CPU is nobody's.

It answers with as many tokens as `max_tokens` asks for, each streamed token a write of its own; the texts differ from
answer to answer, as they would. `python benchmarks/gateway_upstream.py INTERVAL_MS` prints its endpoint and serves; a
streamed token follows the one before it after the interval.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from typing import TYPE_CHECKING

import msgspec
import uvloop

from moltbot_testkit.upstreams import FakeOpenAI, Script

if TYPE_CHECKING:
    from moltbot_testkit.upstream_answers import Reply

_VARIANTS = 64
_WORDS = 20_000


class _Asked(msgspec.Struct):
    max_tokens: int = 16
    stream: bool = False


class Upstream(FakeOpenAI):
    """Plays a model whose answers have the length that is asked for."""

    def __init__(self, interval_s: float) -> None:
        super().__init__(Script(between_s=interval_s, first_token_s=interval_s), record=False)
        self._interval_s = interval_s
        draw = random.Random(7)  # the same texts in every run
        self._words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 7))) for _ in range(_WORDS)]
        self._draw = draw
        self._made: dict[tuple[str, int, bool], itertools.cycle[Reply]] = {}
        self._decode = msgspec.json.Decoder(_Asked).decode

    def reply(self, path: str, body: bytes, script: Script) -> Reply:
        asked = self._decode(body)
        key = (path, asked.max_tokens, asked.stream)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = itertools.cycle([self._answer(*key, script) for _ in range(_VARIANTS)])
        return next(found)

    def _answer(self, path: str, tokens: int, stream: bool, script: Script) -> Reply:
        words = self._draw.choices(self._words, k=tokens)
        return self.render(path, script, [words[0], *(f" {word}" for word in words[1:])], stream=stream)


async def main(interval_ms: float) -> None:
    async with Upstream(interval_ms / 1000).serve() as endpoint:
        print(endpoint, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1])))
