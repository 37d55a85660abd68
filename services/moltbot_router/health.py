"""How models do: calls in flight, time to the first token, and a circuit breaker each.

Source: Nygard, "Release It!" (circuit breaker); Kleinrock's exponentially weighted moving average for latency.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_OPEN_S = 60.0
_SMOOTHING = 0.2


class Breaker(Enum):
    """State of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class _State:
    in_flight: int = 0
    first_token_us: float = 0.0
    failures: int = 0
    """In a row."""
    opened: int = 0
    """Times in a row that the breaker opened."""
    open_until_s: float = 0.0
    last_opened_s: float = 0.0
    """Unix time."""
    trial_until_s: float = 0.0
    """A call is trying the model; another may try after this time if that one never reports."""


class Health:
    """The health of all models.

    Args:
        failures: Failures in a row that open a breaker.
        open_s: Seconds it stays open the first time.
        clock: Monotonic seconds.
    """

    def __init__(self, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._open_s = open_s
        self._clock = clock
        self._models: dict[str, _State] = {}

    def _state(self, model: str) -> _State:
        return self._models.setdefault(model, _State())

    def started(self, model: str) -> None:
        """A call began."""
        self._state(model).in_flight += 1

    def released(self, model: str, calls: int) -> None:
        """Calls will not report any more: who made them is gone."""
        state = self._state(model)
        state.in_flight = max(0, state.in_flight - calls)

    def ended(self, model: str, *, ok: bool | None, first_token_us: int = 0) -> None:
        """A call ended: well, badly, or (`None`) in a way that says nothing about the model."""
        state = self._state(model)
        state.in_flight = max(0, state.in_flight - 1)
        state.trial_until_s = 0.0
        if ok is None:
            return
        if ok:
            state.failures = state.opened = 0
            state.open_until_s = 0.0
            if first_token_us:
                before = state.first_token_us or first_token_us
                state.first_token_us = before + _SMOOTHING * (first_token_us - before)
            return
        if self.breaker(model) is Breaker.OPEN:
            return  # it was under way when the breaker opened: the same outage, not another
        state.failures += 1
        if state.failures >= self._failures or state.opened:
            state.open_until_s = self._clock() + min(_MAX_OPEN_S, self._open_s * 2**state.opened)
            state.opened = min(state.opened + 1, 16)
            state.last_opened_s = time.time()

    def breaker(self, model: str) -> Breaker:
        """The state of a model's breaker."""
        state = self._models.get(model)
        if state is None or not state.opened:
            return Breaker.CLOSED
        return Breaker.OPEN if self._clock() < state.open_until_s else Breaker.HALF_OPEN

    def may_call(self, model: str) -> bool:
        """Whether a call may go to the model now: its breaker is closed, or half open and no call is trying."""
        breaker = self.breaker(model)
        return breaker is Breaker.CLOSED or (
            breaker is Breaker.HALF_OPEN and self._clock() >= self._state(model).trial_until_s
        )

    def try_call(self, model: str) -> None:
        """A call will go to the model; if its breaker is half open, no other one does until this one has ended."""
        if self.breaker(model) is Breaker.HALF_OPEN:
            self._state(model).trial_until_s = self._clock() + self._open_s

    def opens_in_s(self, model: str) -> float:
        """Seconds until an open breaker lets a call try."""
        state = self._models.get(model)
        return 0.0 if state is None else max(0.0, state.open_until_s - self._clock())

    def in_flight(self, model: str) -> int:
        """Calls that run."""
        state = self._models.get(model)
        return state.in_flight if state else 0

    def first_token_us(self, model: str) -> int:
        """Moving average of the time to the first token."""
        state = self._models.get(model)
        return int(state.first_token_us) if state else 0

    def last_opened_s(self, model: str) -> float:
        """Unix time at which the breaker last opened; 0 if never."""
        state = self._models.get(model)
        return state.last_opened_s if state else 0.0
