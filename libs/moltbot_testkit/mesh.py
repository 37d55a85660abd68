"""A whole mesh for tests, in both of its shapes: the daemon, and separate services found through etcd."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import yaml

from moltbot_mesh.second_factor import code_at
from moltbot_testkit.etcd import EtcdServer
from moltbot_testkit.ports import free_port
from moltbot_testkit.process import ChildProcess, http_answers
from moltbot_testkit.redis import RedisServer
from moltbot_testkit.triton import cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

MOLTBOT = str(Path(sys.executable).with_name("moltbot"))
SERVICES = ("audit", "watermark", "router", "context", "tool", "gateway")
_START_S, _STOP_S, _COMMAND_S = 90.0, 30.0, 60.0


class Mesh:
    """One installation, its configuration file and its processes. A context manager: started on entry, stopped on exit.

    Args:
        directory: Takes configuration, data and logs; best a short path, sockets stand below it.
        settings: The configuration beside ports and directories.
    """

    shape = ""

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.directory, self.data_dir = directory, directory / "data"
        self.config_file = directory / "moltbot.yaml"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = dict(settings or {})
        self._keys: dict[tuple[str, str], str] = {}

    @property
    def target(self) -> str:
        """The public port as a gRPC target."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, also again with the data that is there; ready when this returns."""
        raise NotImplementedError

    def stop(self) -> list[int]:
        """End it with SIGTERM.

        Returns:
            The exit status of each process.
        """
        raise NotImplementedError

    def log(self) -> str:
        """What all processes have logged."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def key(self, tenant: str, role: str = "user") -> str:
        """An API key of a tenant, made at the first call; an administrator's has a session open."""
        made = self._keys.get((tenant, role))
        if made is None:
            key = self.json("keys", "create", "--tenant", tenant, "--role", role)
            made = self._keys[tenant, role] = key["key"]
            if role != "user":
                code = code_at(self.json("keys", "enrol", key["id"])["uri"], time.time())
                headers = {"Authorization": f"Bearer {made}", "x-otp": code}
                answer = httpx.get(f"{self.url}/moltbot/v1/audit/checkpoint", headers=headers, trust_env=False)
                assert answer.status_code == 200, answer.text
        return made

    def command(
        self, *arguments: str, expect: int | None = 0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `moltbot` on this installation.

        Args:
            arguments: Subcommand and its arguments.
            expect: The exit status it must have; any if `None`.
            stdin: What it reads.

        Raises:
            AssertionError: It ended with another status.
        """
        argv = [MOLTBOT, *arguments]
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=_COMMAND_S, check=False, env=self.environment()
        )
        assert expect is None or done.returncode == expect, (
            f"moltbot {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.command(*arguments, "--json").stdout)

    def triton_pid(self) -> int:
        """Of the Triton that serves this installation.

        Raises:
            AssertionError: None runs.
        """
        marker = str(self.data_dir / "run")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if argv[0].endswith("/tritonserver") and any(marker in argument for argument in argv):
                        return int(entry.name)
        raise AssertionError(f"no Triton runs on {self.data_dir}")

    def environment(self) -> dict[str, str]:
        """Of every command and process of this installation."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MOLTBOT_")}
        return kept | {"MOLTBOT_CONFIG": str(self.config_file)}

    def _write_settings(self, extra: Mapping[str, Any] | None = None) -> None:
        own = {"data_dir": str(self.data_dir), "cache_dir": str(cache_dir()), "port": self.port}
        tree: dict[str, Any] = self._settings | own
        for section, values in (extra or {}).items():
            tree[section] = {**tree.get(section, {}), **values}
        self.config_file.write_text(yaml.safe_dump(tree))

    def _child(self, name: str, *arguments: str, serves: str) -> ChildProcess:
        """A process of the mesh that says on its standard output that it serves."""
        log = self.directory / f"{name}.log"

        def probe() -> bool:
            return serves in log.read_text(errors="replace")[started:]

        started = len(log.read_text(errors="replace")) if log.exists() else 0
        argv, env = [MOLTBOT, *arguments], self.environment()
        return ChildProcess(argv, log=log, probe=probe, env=env, cwd=self.directory, start_timeout_s=_START_S)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_settings()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class DaemonMesh(Mesh):
    """Everything in one process."""

    shape = "daemon"
    process: ChildProcess | None = None

    def start(self) -> None:
        """See `Mesh.start`."""
        self.process = self._child("daemon", "daemon", serves="moltbot serves")
        self.process.start()

    def stop(self) -> list[int]:
        """See `Mesh.stop`."""
        return [self.process.stop(_STOP_S)] if self.process else []


class ServicesMesh(Mesh):
    """Each service a process, found through a real etcd; quotas in a real Redis; Envoy and Triton beside them."""

    shape = "services"

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(directory, settings)
        self.processes: dict[str, ChildProcess] = {}
        self.etcd: EtcdServer | None = None
        self.redis: RedisServer | None = None

    def start(self) -> None:
        """See `Mesh.start`."""
        etcd = self.etcd = self.etcd or EtcdServer(self.directory / "etcd")
        redis = self.redis = self.redis or RedisServer(self.directory)
        for part in (etcd, redis):
            if not part.process.is_running:
                part.start()
        manifests = str(self.data_dir / "run" / "local-models.yaml")
        router = self._settings.get("router", {})
        self._write_settings(
            {
                "etcd": {"endpoints": [etcd.endpoint]},
                "gateway": {"quota_store": "redis", "redis_url": redis.url},
                "router": {"models": [manifests, *router.get("models", [])]},
            }
        )
        self.command("init")
        self._start("triton", "triton serves")
        with ThreadPoolExecutor(len(SERVICES)) as pool:
            started = [pool.submit(self._start, name, f"{name} serves port") for name in SERVICES]
        for one in started:
            one.result()
        self._start("envoy", "envoy serves")
        if not _says_200(f"{self.url}/readyz"):
            raise AssertionError("/readyz is not 200 although all services run")

    def _start(self, name: str, serves: str) -> None:
        self.processes[name] = self._child(name, "serve", name, serves=serves)
        self.processes[name].start()

    def stop(self) -> list[int]:
        """See `Mesh.stop`."""
        order = ("envoy", "gateway", "tool", "context", "router", "watermark", "audit", "triton")
        codes = [self.processes[name].stop(_STOP_S) for name in order if name in self.processes]
        for part in (self.redis, self.etcd):
            if part is not None:
                part.stop()
        return codes


def _says_200(url: str) -> bool:
    """Whether the first answer is a 200; asked again while none comes in time."""
    until_s = time.monotonic() + _START_S
    while True:
        try:
            return http_answers(url)
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
