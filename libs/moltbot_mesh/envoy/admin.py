"""Envoy's admin interface over its Unix socket: readiness, the port, draining.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from moltbot_mesh.envoy.bootstrap import LISTENER, STAT_PREFIX
from moltbot_mesh.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 2.0
_ACTIVE = f"http.{STAT_PREFIX}.downstream_rq_active"
_POLL_S = 0.05


class EnvoyAdmin:
    """One Envoy's admin interface.

    Args:
        socket: Its Unix socket.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ready(self) -> bool:
        """Whether requests are taken."""
        try:
            await self._call("GET", "/ready")
        except Unavailable:
            return False
        return True

    async def alive(self) -> None:
        """Nothing, if it answers; it may be draining.

        Raises:
            Unavailable: It does not.
        """
        await self._call("GET", "/listeners?format=json")

    async def reopen_logs(self) -> None:
        """Let it open its log files anew, after they were renamed.

        Raises:
            Unavailable: Envoy does not answer.
        """
        await self._call("POST", "/reopen_logs")

    async def port(self) -> int:
        """The port that the listener is bound to.

        Raises:
            Unavailable: Envoy does not answer, or does not listen.
        """
        found = msgspec.json.decode(await self._call("GET", "/listeners?format=json"))
        for listener in found.get("listener_statuses", ()):
            if listener["name"] == LISTENER:
                return int(listener["local_address"]["socket_address"]["port_value"])
        raise Unavailable(f"Envoy behind {self._socket} has no listener {LISTENER!r}")

    async def active_requests(self) -> int:
        """How many requests of clients are being answered."""
        return (await self.stats(_ACTIVE)).get(_ACTIVE, 0)

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match a regular expression.

        Raises:
            Unavailable: Envoy does not answer.
        """
        text = (await self._call("GET", "/stats", filter=pattern, type="All")).decode()
        lines = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in lines if value.isdigit()}

    async def drain(self, at_most_s: float) -> int:
        """Ask clients to go elsewhere and wait until no request is being answered.

        Connections are told to close (`connection: close`, GOAWAY); what comes meanwhile is still answered.

        Returns:
            How many requests were left when the time ran out.

        Raises:
            Unavailable: Envoy does not answer.
        """
        await self._call("POST", "/drain_listeners", graceful="", skip_exit="")
        loop = asyncio.get_running_loop()
        end_s = loop.time() + at_most_s
        quiet = 0
        active = 0
        while quiet < 2:  # twice: a request may stand between two connections
            active = await self.active_requests()
            quiet = quiet + 1 if active == 0 else 0
            if loop.time() >= end_s:
                break
            await asyncio.sleep(_POLL_S)
        return active

    async def _call(self, method: str, path: str, **query: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=timeout) as session,
                session.request(method, f"http://envoy{path}", params=query or None) as response,
            ):
                body = await response.read()
                if response.status != HTTPStatus.OK:
                    text = body[:200].decode(errors="replace").strip()
                    raise Unavailable(f"Envoy's admin interface answered {response.status} to {path}: {text}")
                return body
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"Envoy's admin interface at {self._socket} does not answer: {error}") from None
