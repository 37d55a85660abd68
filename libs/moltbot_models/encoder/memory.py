"""Gives memory that was freed back to the machine."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Hand the C library's free pages back; what compiling took and freed would else stay in the process.

    Source: malloc_trim(3). Does nothing where the C library has no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
