"""Which of several instances takes a call: the less loaded of two, and none that keeps failing.

Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; ejection and its panic after
Envoy's outlier detection (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class OutlierPolicy:
    """When an instance is left out, and for how long."""

    consecutive_failures: int = 3
    """So many failures in a row eject it."""
    base_ejection_s: float = 1.0
    """How long the first ejection lasts, in seconds; each one that follows without a success between lasts twice as
    long."""
    max_ejection_s: float = 60.0
    """How long one lasts at most, in seconds."""


class InstanceHealth:
    """What is known of one instance.

    Args:
        policy: When to eject.
        clock: Seconds, never going back.
    """

    __slots__ = ("_clock", "_ejected_until_s", "_ejections", "_failures", "_policy")

    def __init__(self, policy: OutlierPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._ejections = 0
        self._ejected_until_s = 0.0

    @property
    def is_ejected(self) -> bool:
        """Whether it is to be left out now."""
        return self._ejected_until_s != 0.0 and self._clock() < self._ejected_until_s

    @property
    def is_failing(self) -> bool:
        """Whether it was ejected and has not answered since: it is tried again, but nobody knows that it serves."""
        return self._ejections > 0

    def succeeded(self) -> None:
        """A call was answered: failures before it are forgotten, once its ejection, if any, is over.

        An ejected instance gets calls only where all are; that it answers some is no reason to send it all.
        """
        if not self.is_ejected:
            self.recovered()

    def recovered(self) -> None:
        """It says itself that it serves: all is forgotten, an ejection ends."""
        self._failures = 0
        self._ejections = 0
        self._ejected_until_s = 0.0

    def failed(self) -> bool:
        """It did not answer.

        While it is ejected this says nothing new; once an ejection is over, one failure ejects it again.

        Returns:
            True if this ejected it.
        """
        if self.is_ejected:
            return False
        self._failures += 1
        if self._ejections == 0 and self._failures < self._policy.consecutive_failures:
            return False
        return self.eject()

    def eject(self) -> bool:
        """It says itself that it does not serve: leave it out, whatever it answers.

        Returns:
            True if this ejected it.
        """
        if self.is_ejected:
            return False
        lasts_s = min(self._policy.max_ejection_s, self._policy.base_ejection_s * 2.0 ** min(self._ejections, 30))
        self._ejections += 1
        self._ejected_until_s = self._clock() + lasts_s
        return True


class Candidate(Protocol):
    """An instance that may take a call."""

    @property
    def is_connected(self) -> bool:
        """Whether a call would leave at once."""
        ...

    @property
    def is_ejected(self) -> bool:
        """Whether it is to be left out."""
        ...

    @property
    def outstanding(self) -> int:
        """Calls that it has not answered."""
        ...


C = TypeVar("C", bound=Candidate)


def choose(instances: Sequence[C], rng: random.Random) -> C | None:
    """Pick two at random, and of these the one that is connected, or has fewer calls outstanding.

    Ejected ones are left out, unless all are: then the ejections are more likely wrong than right, and all count.

    Returns:
        `None` if there are none.
    """
    eligible = [instance for instance in instances if not instance.is_ejected] or instances
    if len(eligible) < 2:
        return eligible[0] if eligible else None
    first, second = rng.sample(eligible, 2)
    if first.is_connected != second.is_connected:
        return first if first.is_connected else second
    return first if first.outstanding <= second.outstanding else second
