"""`moltbot daemon`: all services in one process, Envoy and Triton as its children."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from moltbot.gateway.v1 import gateway_pb2

from moltbot_daemon import inference
from moltbot_daemon.envoy_child import envoy_supervisor
from moltbot_daemon.modules import MODULES
from moltbot_mesh.envoy.config import EXPOSED, EnvoyConfig
from moltbot_mesh.envoy.log_files import keep_within
from moltbot_mesh.envoy.process import ADMIN_SOCKET, EnvoyProcess
from moltbot_mesh.errors import FailedPrecondition
from moltbot_mesh.identity import load_mesh_key
from moltbot_mesh.keyvalue import FileKeyValueStore
from moltbot_mesh.runner import Node, running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from moltbot_daemon.places import Places
    from moltbot_daemon.settings import Settings
    from moltbot_mesh.runner import Running

log = structlog.get_logger("moltbot.daemon")

_START_S = 120.0
_LOCK = "daemon.lock"


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that serves."""

    url: str
    seconds: float
    """Since its start."""
    running: Running


def descriptor_set() -> Path:
    """The descriptors of all protos, for transcoding; they stand beside the generated code."""
    return Path(gateway_pb2.__file__).parents[2] / "descriptor_set.binpb"


@contextlib.contextmanager
def _alone(places: Places) -> Generator[None]:
    """Keep a second daemon off the data directory; the lock goes with the process, however it ends."""
    descriptor = os.open(places.data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise FailedPrecondition(
            f"a daemon runs on {places.data_dir} already; stop it, or choose another --data-dir"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def serving(settings: Settings, places: Places, progress: Callable[[str], None]) -> AsyncGenerator[Started]:
    """Run the whole mesh while the context is open.

    Args:
        settings: The configuration.
        places: Its directories; they exist.
        progress: Told what is being done, in words.

    Raises:
        MoltbotError: It cannot start; the message says why and what to do.
    """
    started_s = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_alone(places))
        envoy = _envoy(settings, places)
        envoy.check_port()
        local = await asyncio.to_thread(
            inference.prepare, settings.inference, places, progress, settings.telemetry.traces_url
        )
        await stack.enter_async_context(local.running())
        router = settings.router.model_copy(update={"models": (local.manifests, *settings.router.models)})
        settings = settings.model_copy(update={"router": router})
        node = Node(
            data_dir=places.data_dir,
            mesh_key=load_mesh_key(places.mesh_key_file),
            store=FileKeyValueStore(places.store_dir),
            listen=(f"unix:{places.mesh_socket}",),
            listen_http=f"unix:{places.http_socket}",
            second_factor=settings.security.policy(),
            telemetry=settings.telemetry,
            recording=settings.recording,
            grace_s=settings.envoy.drain_s,
        )
        mesh = await stack.enter_async_context(running(MODULES, ["gateway"], settings, node))
        envoy.prepare()
        child = envoy_supervisor(envoy)
        await stack.enter_async_context(child.running())
        await stack.enter_async_context(bounded_log(envoy, places, settings))
        progress("waiting for the models and Envoy")
        await child.wait_ready(_START_S)
        await local.wait_ready(_START_S)
        port = await envoy.port()
        scheme = "https" if settings.envoy.tls_certificate else "http"
        yield Started(f"{scheme}://{settings.host}:{port}", time.monotonic() - started_s, mesh)


@contextlib.asynccontextmanager
async def bounded_log(envoy: EnvoyProcess, places: Places, settings: Settings) -> AsyncGenerator[None]:
    """Keep the access log within its bounds while the context is open."""
    bounds = keep_within(
        places.access_log, settings.envoy.access_log_mib << 20, settings.envoy.access_log_files, envoy.admin
    )
    task = asyncio.create_task(bounds, name="access-log")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _envoy(settings: Settings, places: Places) -> EnvoyProcess:
    target = f"unix:{places.mesh_socket}"
    config = EnvoyConfig(
        upstreams=dict.fromkeys(EXPOSED, (target,)),
        http_upstream=(f"unix:{places.http_socket}",),
        descriptor_set=descriptor_set(),
        listen_host=settings.host,
        listen_port=settings.port,
        admin_path=places.run_dir / ADMIN_SOCKET,
        body_limit_bytes=settings.gateway.body_limit_bytes,
        access_log=str(places.access_log),
        tls_certificate=settings.envoy.tls_certificate,
        tls_key=settings.envoy.tls_key,
        otlp_target=settings.telemetry.envoy_target,
        sample_ratio=settings.telemetry.sample_ratio,
    )
    return EnvoyProcess(config, places.run_dir, settings.envoy.concurrency, settings.envoy.drain_s)


async def until_told() -> None:
    """Wait for SIGINT or SIGTERM."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)  # a second one ends the process at once
