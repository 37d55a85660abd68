"""Calls native code that recurses as deep as its input says, and never looks how deep that is."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_STACK_BYTES = 512 << 20
"""Of addresses; memory is taken as it is used."""
_LOCK = threading.Lock()


def in_deep_stack(call: Callable[[], _T]) -> _T:
    """Call in a thread of its own, with 64 times the stack that threads have; return or raise what it does."""
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            done.set_exception(error)

    with _LOCK:  # the size is one for all threads that start meanwhile
        before = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=run, name="deep-stack", daemon=True).start()
        finally:
            threading.stack_size(before)
    return done.result()
