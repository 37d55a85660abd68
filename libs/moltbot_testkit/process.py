"""Child processes of tests: started, probed until they serve, ended with certainty; a failure shows their log."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_TAIL_BYTES = 4096


class ProcessFailedError(RuntimeError):
    """A child did not start, or ended by itself; the message ends with the tail of its log."""


class ChildProcess:
    """One child. A context manager: started on entry, stopped on exit. It may be started again after `kill` or `stop`.

    `start` blocks for as long as the child needs; within an event loop that the child depends on, call it by
    `asyncio.to_thread`.

    Args:
        argv: Program and arguments.
        log: File that takes its output; appended to.
        probe: True once it serves; may raise `OSError` until then.
        env: Its whole environment; `None`: this process's.
        cwd: Its working directory; `None`: this process's.
        start_timeout_s: How long `probe` may take to be true, in seconds.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        probe: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_timeout_s: float = 20.0,
    ) -> None:
        self._argv = list(argv)
        self._log = log
        self._probe = probe
        self._env = dict(os.environ if env is None else env)
        self._cwd = cwd
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[..., ChildProcess] | None = None

    @property
    def pid(self) -> int:
        """Of the running child.

        Raises:
            ProcessFailedError: It does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise self._failure("does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ProcessFailedError: It ended, or did not serve in time; it is killed then.
        """
        if self.is_running:
            raise RuntimeError(f"{self._argv[0]} runs already, as process {self.pid}")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._env, cwd=self._cwd
            )
        self._finalizer = weakref.finalize(self, _kill, self._process)
        until_s = time.monotonic() + self._start_timeout_s
        while True:
            code = self._process.poll()
            if code is not None:
                raise self._failure(f"ended with status {code} before it served")
            with contextlib.suppress(OSError):
                if self._probe():
                    return
            if time.monotonic() > until_s:
                self.kill()
                raise self._failure(f"did not serve within {self._start_timeout_s:g} s")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, with SIGKILL, and wait until it is gone."""
        if self._process is not None:
            _kill(self._process)

    def stop(self, timeout_s: float = 10.0) -> int:
        """End it with SIGTERM; with SIGKILL if that takes longer than `timeout_s`.

        Returns:
            Its exit status; negative: the signal that ended it.
        """
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def log_tail(self, size_bytes: int = _TAIL_BYTES) -> str:
        """The end of its log."""
        if not self._log.exists():
            return ""
        return self._log.read_bytes()[-size_bytes:].decode(errors="replace")

    def _failure(self, what: str) -> ProcessFailedError:
        return ProcessFailedError(
            f"{' '.join(self._argv)} {what}; the end of its log ({self._log}):\n{self.log_tail()}"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def tcp_answers(port: int, host: str = "127.0.0.1") -> bool:
    """Probe: something accepts connections on the port."""
    with socket.create_connection((host, port), timeout=0.5):
        return True


def http_answers(url: str, status: int = 200) -> bool:
    """Probe: a GET of the URL answers with the status."""
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:  # noqa: S310 - the tests' own URLs
            return answer.status == status
    except urllib.error.HTTPError as error:
        with error:
            return error.code == status
