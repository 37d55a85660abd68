"""What this machine's processor does with INT8."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

INT8_MAX = 127
_HALF_RANGE = 64
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
"""Extensions that sum products of bytes in 32 bits at once."""


@functools.cache
def largest_weight() -> int:
    """The largest code of an INT8 weight here: 127, or 64 where pairs of products are summed in 16 bits.

    x86 without VNNI multiplies with VPMADDUBSW, which holds 255 * w + 255 * w at 32,767: with weights up to 127 the sum
    of two large products is cut off. On random encoders that cost up to 17 % of the output's variance; weights of seven
    bits cost 0.3 %.

    Source: Intel 64 Software Developer's Manual, PMADDUBSW; ONNX Runtime's "reduce range" for the same reason.
    """
    try:
        told = Path("/proc/cpuinfo").read_text("utf-8") if platform.machine() == "x86_64" else ""
    except OSError:
        told = ""
    return largest_weight_of(told)


def largest_weight_of(cpuinfo: str) -> int:
    """The same from the text of /proc/cpuinfo; a processor that tells no flags is taken to sum exactly."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return INT8_MAX if not flags or _EXACT & set(flags.split()) else _HALF_RANGE
