"""Per-tenant quotas of requests and tokens a minute: the generic cell rate algorithm, in process or in Redis.

A request and an estimate of its prompt are charged when it is admitted; what it used beyond that is charged when it is
known, so one answer may overdraw the bucket and the next request then waits for the refill. What the mesh could not
answer is given back.

Source: ITU-T I.371 (GCRA, virtual scheduling).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from moltbot_mesh.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

    from moltbot_gateway.settings import TenantLimits

WINDOW_S = 60.0


class Buckets(Protocol):
    """Counts what is used, by name."""

    async def take(self, name: str, amount: float, per_minute: float) -> float:
        """Take from a bucket that holds one minute's worth.

        Returns:
            0 if it was taken, else the seconds until it could be; then nothing was taken.
        """
        ...

    async def charge(self, name: str, amount: float, per_minute: float) -> None:
        """Take in any case, also past the bottom."""
        ...

    async def give_back(self, name: str, amount: float, per_minute: float) -> None:
        """Undo a `take`; a bucket never holds more than a minute's worth."""
        ...


class ProcessBuckets:
    """Buckets of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # the theoretical arrival time: when the bucket is full again

    async def take(self, name: str, amount: float, per_minute: float) -> float:
        """See `Buckets.take`."""
        now = self._clock()
        cost_s = amount * WINDOW_S / per_minute
        full_at = max(now, self._full_at.get(name, now))
        wait_s = full_at + cost_s - now - WINDOW_S
        # An amount that never fits waits for a full bucket and then overdraws it.
        if wait_s > 1e-9 and full_at > now:
            return wait_s if cost_s <= WINDOW_S else full_at - now
        self._full_at[name] = full_at + cost_s
        return 0.0

    async def charge(self, name: str, amount: float, per_minute: float) -> None:
        """See `Buckets.charge`."""
        now = self._clock()
        self._full_at[name] = max(now, self._full_at.get(name, now)) + amount * WINDOW_S / per_minute

    async def give_back(self, name: str, amount: float, per_minute: float) -> None:
        """See `Buckets.give_back`."""
        now = self._clock()
        self._full_at[name] = max(now, self._full_at.get(name, now) - amount * WINDOW_S / per_minute)


class Quotas:
    """The quotas of all tenants.

    Args:
        buckets: Where use is counted.
    """

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    async def admit(self, tenant: str, limits: TenantLimits, prompt_tokens: int) -> None:
        """Charge one request and its prompt.

        Args:
            tenant: Whose.
            limits: The tenant's.
            prompt_tokens: An estimate; what was really used is settled by `settle`.

        Raises:
            ResourceExhausted: A quota is used up; `retry_after_s` says when it will do, and nothing was charged.
        """
        if limits.requests_per_minute:
            wait_s = await self._buckets.take(f"{tenant}/requests", 1, limits.requests_per_minute)
            if wait_s:
                raise _exceeded(tenant, f"{limits.requests_per_minute} requests", wait_s)
        if limits.tokens_per_minute:
            wait_s = await self._buckets.take(f"{tenant}/tokens", max(1, prompt_tokens), limits.tokens_per_minute)
            if wait_s:
                await self._give_back_request(tenant, limits)
                raise _exceeded(tenant, f"{limits.tokens_per_minute} tokens", wait_s)

    async def settle(self, tenant: str, limits: TenantLimits, charged: int, used: int) -> None:
        """Charge what was used beyond the estimate."""
        if limits.tokens_per_minute and used > charged:
            await self._buckets.charge(f"{tenant}/tokens", used - charged, limits.tokens_per_minute)

    async def refund(self, tenant: str, limits: TenantLimits, prompt_tokens: int) -> None:
        """Undo an `admit`: the mesh could not answer."""
        await self._give_back_request(tenant, limits)
        if limits.tokens_per_minute:
            await self._buckets.give_back(f"{tenant}/tokens", max(1, prompt_tokens), limits.tokens_per_minute)

    async def _give_back_request(self, tenant: str, limits: TenantLimits) -> None:
        if limits.requests_per_minute:
            await self._buckets.give_back(f"{tenant}/requests", 1, limits.requests_per_minute)


def _exceeded(tenant: str, what: str, wait_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        f"tenant {tenant} has used its quota of {what} a minute; try again in {wait_s:.1f} s",
        reason="QUOTA_EXCEEDED",
        metadata={"tenant": tenant},
        retry_after_s=wait_s,
    )
