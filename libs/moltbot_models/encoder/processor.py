"""What this machine's processor does with INT8 and BF16."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Literal

FloatPrecision = Literal["bf16", "f32"]
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
    return largest_weight_of(_cpuinfo())


def largest_weight_of(cpuinfo: str) -> int:
    """The same from the text of /proc/cpuinfo; a processor that tells no flags is taken to sum exactly."""
    flags = _told(cpuinfo, "flags")
    return INT8_MAX if not flags or _EXACT & set(flags.split()) else _HALF_RANGE


@functools.cache
def quickest_float() -> FloatPrecision:
    """The arithmetic in which products of floats are quickest here.

    BF16 is, where there is AMX (an encoder takes a third of the time of FP32) or on a Zen 4 (six tenths) and what came
    after it from AMD. A Xeon whose AMX is hidden, as hypervisors do, takes 1.6 times as long in it: products of BF16
    have half the rate of FP32's there (80 and 150 GFLOP/s a core).
    """
    return quickest_float_of(_cpuinfo())


def quickest_float_of(cpuinfo: str) -> FloatPrecision:
    """The same from the text of /proc/cpuinfo; FP32, which is exact, where nothing is known."""
    flags = set(_told(cpuinfo, "flags").split())
    amd = "AuthenticAMD" in _told(cpuinfo, "vendor_id")
    return "bf16" if "amx_bf16" in flags or (amd and "avx512_bf16" in flags) else "f32"


def _cpuinfo() -> str:
    """What is told of the first core; the others are like it."""
    try:
        told = Path("/proc/cpuinfo").read_text("utf-8") if platform.machine() == "x86_64" else ""
    except OSError:
        return ""
    return told.split("\n\n", 1)[0]


def _told(cpuinfo: str, key: str) -> str:
    return next((line for line in cpuinfo.splitlines() if line.startswith(key)), "")
