"""The door by which other machines use this node's models: inference alone, by mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from moltbot_daemon.envoy_child import envoy_supervisor
from moltbot_mesh.envoy.config import split_host_port
from moltbot_mesh.envoy.door import DoorConfig
from moltbot_mesh.envoy.process import EnvoyProcess
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models.tls import Tls, TlsFiles
from moltbot_models.triton.command import ADMIN_HEADER, INFERENCE_METHODS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_daemon.places import Places
    from moltbot_daemon.settings import InferenceSettings
    from moltbot_models.triton.server import TritonServer

log = structlog.get_logger("moltbot.daemon")

_DRAIN_S = 10.0


class ModelDoor:
    """An Envoy before Triton's socket.

    Args:
        process: What runs it.
    """

    def __init__(self, process: EnvoyProcess) -> None:
        self._process = process
        self._child = envoy_supervisor(process, "door")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep it open while the context is open.

        Raises:
            FailedPrecondition: The address is taken, or the run directory cannot be written.
        """
        self._process.check_port()
        await asyncio.to_thread(self._process.prepare)
        async with self._child.running():
            yield

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it is open.

        Raises:
            Unavailable: It was not in time.
        """
        await self._child.wait_ready(timeout_s)
        config = self._process.config
        log.info("models open to other machines", host=config.listen_host, port=config.listen_port)


def check_door(settings: InferenceSettings) -> tuple[Path, Path, Path] | None:
    """Certificate, key and authorities of the door; `None` if there is none.

    Raises:
        InvalidArgument: Something is missing.
        FailedPrecondition: A file cannot be used.
    """
    if not settings.listen:
        return None
    split_host_port(settings.listen)
    chain, key, authorities = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if chain is None or key is None or authorities is None:
        raise InvalidArgument(
            "inference.listen opens this node's models to other machines, which needs inference.tls_certificate, "
            "tls_key and tls_client_ca; set all three, or leave inference.listen empty"
        )
    files = tuple(Path(path).expanduser().absolute() for path in (chain, key, authorities))
    TlsFiles("door", Tls(ca_file=str(files[2]), cert_file=str(files[0]), key_file=str(files[1])))
    return files[0], files[1], files[2]


def model_door(settings: InferenceSettings, places: Places, triton: TritonServer | None) -> ModelDoor | None:
    """The door that the configuration asks for, not yet open.

    Raises:
        InvalidArgument: As `check_door`.
        FailedPrecondition: As `check_door`, or there is no Triton to open.
    """
    files = check_door(settings)
    if files is None:
        return None
    if triton is None:
        raise FailedPrecondition(
            "inference.listen is set, and no Triton runs here whose models could be used: set inference.engine to "
            "triton, or leave inference.listen empty"
        )
    host, port = split_host_port(settings.listen)
    config = DoorConfig(
        listen_host=host,
        listen_port=port,
        certificate=files[0],
        key=files[1],
        client_ca=files[2],
        socket=triton.socket,
        methods=INFERENCE_METHODS,
        admin_path=places.run_dir / "door.sock",
        client_names=tuple(settings.tls_client_names),
        dropped_headers=(ADMIN_HEADER,),
    )
    return ModelDoor(EnvoyProcess(config, places.run_dir / "door", drain_s=_DRAIN_S))
