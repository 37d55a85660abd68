"""The plain sampling mark's numbers: what is drawn for a token follows from a key and the four tokens before it.

Gumbel-max: of the candidates the one with the greatest `log p - log(-log u)` is taken, which is a fair draw from p to
whoever does not know the `u`. Who knows the key finds tokens whose `u` are too often near 1.

Standard library alone: this file also goes, as it is, to vLLM (`targets/vllm_mark.py.template`).

Source: Aaronson, "Watermarking of large language models" (2022); Kirchenbauer et al., arXiv:2306.04634 (contexts that
came before are skipped); Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), SplitMix64.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONTEXT_TOKENS = 4
MOST_CANDIDATES = 1024
"""The likeliest ones; what lies beyond is not drawn under the mark."""
KEY_BYTES = 32
ARGUMENT = "moltbot_mark"
"""Of a request to vLLM (`vllm_xargs`): names the key."""
STEP = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""SplitMix64: shift, factor; after them a shift by `LAST_SHIFT`."""
LAST_SHIFT = 31
_MASK = 2**64 - 1


def context_seed(key: bytes, output: Sequence[int]) -> int | None:
    """Seed of the token that follows, 64 bits; None if that token is not marked.

    It is not where fewer than four tokens have come, where one is not known yet (negative), or where the same four came
    before in this answer: the same draw again would show, and repeat what it repeats.

    Args:
        key: 32 bytes.
        output: Tokens of the answer so far.
    """
    last = output[-CONTEXT_TOKENS:]
    if len(last) < CONTEXT_TOKENS or min(last) < 0:
        return None
    context = array("i", last).tobytes()
    # In bytes: a search that takes microseconds where one among tuples takes hundreds.
    before = array("i", output[:-1]).tobytes()
    size = array("i").itemsize
    place = before.find(context)
    while place >= 0 and place % size:
        place = before.find(context, place + 1)
    if place >= 0:
        return None
    data = b"".join(token.to_bytes(4, "little") for token in last)
    digest = hashlib.blake2b(data, digest_size=8, key=key, person=b"moltbot plain 1")
    return int.from_bytes(digest.digest(), "little")


def uniform(seed: int, token: int) -> float:
    """The `u` of a candidate, within (0, 1)."""
    mixed = (seed + (token + 1) * STEP) & _MASK
    for shift, factor in MIX:
        mixed = (mixed ^ (mixed >> shift)) * factor & _MASK
    mixed ^= mixed >> LAST_SHIFT
    return ((mixed >> 11) + 0.5) / 2**53


def read_keys(path: Path) -> dict[str, bytes]:
    """Read a file of keys: a JSON object from names to 64 hexadecimal digits.

    Raises:
        ValueError: It is none, or others may read it.
    """
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: others may read these keys; run `chmod 600 {path}`")
    try:
        tree = cast("Mapping[str, Any]", json.loads(path.read_text("utf-8")))
        keys = {str(name): bytes.fromhex(digits) for name, digits in tree.items()}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: must hold a JSON object from names to {2 * KEY_BYTES} hexadecimal digits") from None
    if wrong := sorted(name for name, key in keys.items() if len(key) != KEY_BYTES):
        raise ValueError(f"{path}: the key {wrong[0]} must have {KEY_BYTES} bytes")
    return keys


def key_asked(
    arguments: Mapping[str, Any] | None, keys: Mapping[str, bytes], default: str | None = None
) -> bytes | None:
    """The key that a request's further arguments name, or that of `default`; None if neither asks for a mark.

    Raises:
        ValueError: There is no such key.
    """
    name = (arguments or {}).get(ARGUMENT, default)
    if name is None:
        return None
    if not isinstance(name, str) or name not in keys:
        raise ValueError(f"{ARGUMENT} must name a key of the key file")
    return keys[name]
