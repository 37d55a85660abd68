"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""Ports that Linux gives to no outgoing connection: one stays free between the look and the server's start, and while a
server is down before its restart."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on.

    Raises:
        RuntimeError: None was found.
    """
    for _ in range(200):
        port = random.choice(_BELOW_EPHEMERAL)  # noqa: S311 - no secret
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no free port between {_BELOW_EPHEMERAL.start} and {_BELOW_EPHEMERAL.stop} after 200 tries")
