"""Quotas that hold across gateways: the generic cell rate algorithm as one Lua script in Redis.

Redis' own clock is used, so gateways whose clocks differ agree. A bucket's key expires when the bucket is full again.

Source: ITU-T I.371 (GCRA); https://redis.io/docs/latest/develop/interact/programmability/eval-intro/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from moltbot_gateway.quota import WINDOW_S
from moltbot_mesh.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger("moltbot.gateway")

_TIMEOUT_S = 1.0
_SCRIPT = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local cost, window, force = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now))
local wait = full + cost - now - window
if not force and wait > 1e-6 and full > now then
  if cost > window then wait = full - now end
  return tostring(wait)
end
full = math.max(now, full + cost)
redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000) + 1000)
return '0'
"""


class RedisBuckets:
    """Buckets in Redis; see `moltbot_gateway.quota.Buckets`.

    Args:
        url: `redis://host:port/db`.
        fail_closed: Whether requests are refused while Redis cannot be reached; else they are not counted.

    Raises:
        InvalidArgument: The URL is missing or not one.
    """

    def __init__(self, url: str, *, fail_closed: bool) -> None:
        try:
            self._redis: Any = redis.asyncio.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )
        except ValueError:
            raise InvalidArgument("gateway.redis_url: not a Redis URL (redis://host:port/db)") from None
        self._script: Callable[..., Awaitable[bytes]] = self._redis.register_script(_SCRIPT)
        self._fail_closed = fail_closed

    async def take(self, name: str, amount: float, per_minute: float) -> float:
        """See `Buckets.take`.

        Raises:
            Unavailable: Redis cannot be reached, and quotas fail closed.
        """
        return await self._run(name, amount, per_minute, "0")

    async def charge(self, name: str, amount: float, per_minute: float) -> None:
        """See `Buckets.charge`. What cannot be charged is logged: the answer has been given."""
        try:
            await self._run(name, amount, per_minute, "1")
        except Unavailable:
            log.error("tokens not charged: Redis cannot be reached", bucket=name)

    async def give_back(self, name: str, amount: float, per_minute: float) -> None:
        """See `Buckets.give_back`. What cannot be given back is logged: the refusal stands."""
        try:
            await self._run(name, -amount, per_minute, "1")
        except Unavailable:
            log.error("quota not given back: Redis cannot be reached", bucket=name)

    async def _run(self, name: str, amount: float, per_minute: float, force: str) -> float:
        cost_s = amount * WINDOW_S / per_minute
        try:
            return float(await self._script(keys=[f"moltbot:quota:{name}"], args=[cost_s, WINDOW_S, force]))
        except (RedisError, OSError, TimeoutError) as error:
            if self._fail_closed:
                raise Unavailable(
                    "quotas cannot be checked: their store does not answer", retry_after_s=_TIMEOUT_S
                ) from error
            log.error("quota not checked: Redis cannot be reached", error=type(error).__name__)
            return 0.0

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
