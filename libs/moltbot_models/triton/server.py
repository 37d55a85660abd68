"""Triton as a child: its repository, its command line, its models loaded and probed after every start."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, MoltbotError, Unavailable
from moltbot_mesh.supervisor import Supervisor
from moltbot_models.triton.client import TritonClient, TritonRefusal
from moltbot_models.triton.command import EXIT_S, GRPC_PORT, Launch
from moltbot_models.triton.probe import probe_model
from moltbot_models.triton.repository import configs_of, part_names, triton_name, write_model, write_repository

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from moltbot_models.triton.provision import TritonRuntime
    from moltbot_models.triton.repository import ModelSpec

_SOCKET_PATH_BYTES = 107
"""What sockaddr_un holds."""
_LIVE_S = 20.0
_LOAD_S = 60.0
_PROBE_S = 30.0
_POLL_S = 0.05
_MAY_PASS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton puts the regions of its Python backend


class TritonServer:
    """Serves models on a Unix socket that only this user can reach, and starts again after a crash.

    Args:
        runtime: The installed Triton.
        specs: What to serve from the start; without them Triton is not ready.
        run_dir: For this installation alone (0700), with a short path: the repository and the socket.
        threads: Of each model's arithmetic; 0 takes every core. A spec's own option wins.
        kv_cache_mib: Memory for keys and values of each text model. A spec's own option wins.
        traces_url: Where Triton sends its spans by OTLP/HTTP; empty: it makes none.
    """

    def __init__(
        self,
        runtime: TritonRuntime,
        specs: Sequence[ModelSpec],
        run_dir: Path,
        *,
        threads: int = 0,
        kv_cache_mib: int = 128,
        traces_url: str = "",
    ) -> None:
        self._threads, self._kv_cache_mib = threads, kv_cache_mib
        self._needed = [self._completed(spec) for spec in specs]
        self._placed: dict[str, ModelSpec] = {}
        """Added while it runs, by id."""
        self._versions: dict[str, int] = {}
        self._placing = asyncio.Lock()
        self.failed: dict[str, str] = {}
        """Models placed while it ran that did not come back after a restart, with the reason."""
        self._run_dir = run_dir.absolute()
        self._repository = self._run_dir / "models"
        # Triton takes it as an argument, which everybody here may read: it is worth nothing without the socket.
        self._admin = secrets.token_hex(32)
        # Of this installation alone: two daemons must not share the Python backend's memory.
        self._regions = f"moltbot-{hashlib.sha256(os.fsencode(self._run_dir)).hexdigest()[:16]}-"
        socket = self._run_dir / "triton.sock"
        self.endpoint = f"unix:{socket}:{GRPC_PORT}"
        """The gRPC target, for a manifest's `endpoint`."""
        self.socket = Path(self.endpoint.removeprefix("unix:"))
        if len(os.fsencode(self.endpoint)) - len("unix:") > _SOCKET_PATH_BYTES:
            raise FailedPrecondition(f"{run_dir}: too long for the path of a Unix socket; use a shorter directory")
        launch = Launch(runtime, self._repository, socket, self._regions, self._admin, traces_url)
        self.supervisor = Supervisor(
            "triton",
            launch.argv,
            launch.environment,
            self._ready,
            alive=self._alive,
            on_started=self._load_models,
            grace_s=EXIT_S + 3.0,
            ready_timeout_s=_LIVE_S + _LOAD_S + _PROBE_S,
        )

    def client(self) -> TritonClient:
        """A client that may administer; whoever asks closes it."""
        return TritonClient(self.endpoint, admin=self._admin)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Write the repository and keep Triton running while the context is open; `wait_ready` waits for its models.

        Raises:
            FailedPrecondition: The run directory cannot be written.
            InvalidArgument: A model's options are wrong.
        """
        await asyncio.to_thread(self._prepare)
        try:
            async with self.supervisor.running():
                yield
        finally:
            self._clear_shared_memory()

    def _clear_shared_memory(self) -> None:
        """Remove what a Triton that was killed has left in memory."""
        for region in _SHARED_MEMORY.glob(f"{self._regions}*"):
            region.unlink(missing_ok=True)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until every model has answered.

        Raises:
            Unavailable: Not in time; the message has the end of Triton's log.
        """
        await self.supervisor.wait_ready(timeout_s)

    def missing(self) -> list[str]:
        """What a readiness check has to say; empty when every model answers."""
        return self.supervisor.missing()

    def _prepare(self) -> None:
        try:
            self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Whoever reaches the socket may load code into the server, so a directory open to others is closed.
            self._run_dir.chmod(0o700)
        except OSError as error:
            raise FailedPrecondition(f"{self._run_dir}: cannot be written: {error.strerror}") from None
        self._clear_shared_memory()
        write_repository(self._repository, self._needed)

    async def place(self, spec: ModelSpec) -> None:
        """Serve a model, or its new version; the old one answers until the new one does.

        Raises:
            InvalidArgument: An option is wrong.
            FailedPrecondition: It cannot be loaded; an old version stays in use.
            Unavailable: Triton is not there, or the model does not answer.
        """
        spec = self._completed(spec)
        if any(spec.id == needed.id for needed in self._needed):
            raise InvalidArgument(f"model {spec.id}: the node serves a model of this id from its start; choose another")
        configs_of(spec, self._repository)
        async with self._placing, contextlib.aclosing(self.client()) as client:
            before = self._placed.get(spec.id)
            await asyncio.to_thread(self._write, spec)
            try:
                await _load(client, spec)
                await _probe(client, spec)
            except MoltbotError:
                if before is None:
                    await self._unloaded(client, spec.id)
                else:
                    # Triton keeps the old version; a restart must find its files, too.
                    await asyncio.to_thread(self._write, before)
                    with contextlib.suppress(MoltbotError):
                        await _load(client, before)
                        await self._unload_parts(client, spec.id, before)
                raise
            self._placed[spec.id] = spec
            self.failed.pop(spec.id, None)
            await self._unload_parts(client, spec.id, spec)

    async def withdraw(self, model_id: str) -> None:
        """Serve a placed model no more; requests under way end first. Harmless if it is not there."""
        async with self._placing, contextlib.aclosing(self.client()) as client:
            if self._placed.pop(model_id, None) is not None:
                self.failed.pop(model_id, None)
                await self._unloaded(client, model_id)

    def _write(self, spec: ModelSpec) -> None:
        version = self._versions.get(spec.id, 0) + 1
        self._versions[spec.id] = version
        write_model(self._repository, spec, version)

    async def _unloaded(self, client: TritonClient, model_id: str) -> None:
        await self._unload(client, triton_name(model_id))
        await self._unload_parts(client, model_id)

    async def _unload_parts(self, client: TritonClient, model_id: str, served: ModelSpec | None = None) -> None:
        """Unload the parts of ensembles that went; requests that use them hold them until they end."""
        keeps = served is not None and served.image_rows is not None
        kept = part_names(model_id, self._versions.get(model_id, 1)) if keeps else ()
        for directory in self._repository.glob(f"{triton_name(model_id)}~*"):
            if directory.name not in kept:
                await self._unload(client, directory.name)

    async def _unload(self, client: TritonClient, name: str) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):  # gone with a server that is just starting again
            await client.unload(name, _LOAD_S)
        await asyncio.to_thread(shutil.rmtree, self._repository / name, ignore_errors=True)

    def _completed(self, spec: ModelSpec) -> ModelSpec:
        defaults = {"threads": str(self._threads)}
        if spec.task == "text-generation":
            defaults["kv_cache_mib"] = str(self._kv_cache_mib)
        return dataclasses.replace(spec, options=defaults | dict(spec.options))

    async def _load_models(self) -> None:
        async with contextlib.aclosing(self.client()) as client:
            await self._wait_live(client)
            for spec in self._needed:
                await _load(client, spec)
            for spec in list(self._placed.values()):
                try:
                    await _load(client, spec)
                    self.failed.pop(spec.id, None)
                except MoltbotError as error:  # one that broke meanwhile must not keep the others away
                    self.failed[spec.id] = error.message

    async def _alive(self) -> None:
        async with contextlib.aclosing(self.client()) as client:
            try:
                await client.live(_PROBE_S)
            except grpc.aio.AioRpcError as error:
                raise Unavailable(f"triton does not answer: {error.details()}") from error

    async def _wait_live(self, client: TritonClient) -> None:
        async with asyncio.timeout(_LIVE_S):
            while self.supervisor.pid is not None:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    if await client.live(1.0):
                        return
                await asyncio.sleep(_POLL_S)
        raise Unavailable("triton ended while it started")

    async def _ready(self) -> bool:
        """Infer with every model that must be there."""
        async with contextlib.aclosing(self.client()) as client:
            for spec in self._needed:
                await _probe(client, spec)
        return True


async def _load(client: TritonClient, spec: ModelSpec) -> None:
    try:
        # With an ensemble Triton loads its parts.
        await client.load(triton_name(spec.id), _LOAD_S)
    except grpc.aio.AioRpcError as error:
        why = str(error.details()).partition("\n\nAt:")[0]  # without the traceback of the Python backend
        text = f"model {spec.id} ({spec.path}): Triton cannot load it: {why}"
        kind = Unavailable if error.code() in _MAY_PASS else FailedPrecondition
        raise kind(text) from error


async def _probe(client: TritonClient, spec: ModelSpec) -> None:
    try:
        await probe_model(client, spec.task, triton_name(spec.id), _PROBE_S)
    except (grpc.aio.AioRpcError, TimeoutError, TritonRefusal, ValueError) as error:
        raise Unavailable(f"model {spec.id} does not answer: {error}") from error
