"""How Triton is started: what it serves, who may administer it, where its traces go.

Source: triton-inference-server/server docs, inference_protocols.md (limited endpoint access) and trace.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.triton.provision import python_libraries

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_models.triton.provision import TritonRuntime

GRPC_PORT = 18001
"""Triton appends its port to a socket's path; nothing listens on TCP."""
EXIT_S = 1
"""How long Triton may take to unload; requests have ended by then, and its own clock has steps of a second."""
ADMIN_PROTOCOLS = ("model-repository", "shared-memory", "trace", "logging")
"""What changes the server, or has it read memory or write files, and is for whoever placed the models alone."""
ADMIN_KEY = "moltbot-admin"
ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_KEY}"
INFERENCE_METHODS = tuple(
    f"/inference.GRPCInferenceService/{method}"
    for method in (
        *("ModelInfer", "ModelStreamInfer", "ModelStatistics", "ModelConfig", "ModelMetadata"),
        *("ModelReady", "ServerLive", "ServerReady", "ServerMetadata"),
    )
)
"""What other machines may call."""
_TRACE_DELAY_MS = 1000


@dataclass(frozen=True, slots=True)
class Launch:
    """One Triton on a Unix socket."""

    runtime: TritonRuntime
    repository: Path
    socket: Path
    regions: str
    """Prefix of the Python backend's shared memory, for this installation alone."""
    admin: str
    """The secret of administration; see docs/adr/0012."""
    traces_url: str = ""
    """OTLP/HTTP, the whole URL; empty: Triton makes no spans."""

    @property
    def argv(self) -> list[str]:
        """The command line."""
        return [
            str(self.runtime.server),
            f"--model-repository={self.repository}",
            f"--backend-directory={self.runtime.backends}",
            f"--cache-directory={self.runtime.caches}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={EXIT_S}",
            "--allow-http=false",
            "--allow-metrics=false",
            f"--grpc-address=unix:{self.socket}",
            f"--grpc-port={GRPC_PORT}",
            f"--grpc-restricted-protocol={','.join(ADMIN_PROTOCOLS)}:{ADMIN_KEY}={self.admin}",
            f"--backend-config=python,shm-region-prefix-name={self.regions}",
            *self._traces(),
        ]

    def _traces(self) -> list[str]:
        if not self.traces_url:
            return []
        given = (
            "mode=opentelemetry",
            "level=TIMESTAMPS",
            # Of its own accord Triton records nothing: a request with a trace context is recorded whatever the rate.
            "rate=0",
            "count=-1",
            f"opentelemetry,url={self.traces_url}",
            "opentelemetry,resource=service.name=moltbot-triton",
            f"opentelemetry,bsp_schedule_delay={_TRACE_DELAY_MS}",
        )
        return [f"--trace-config={one}" for one in given]

    @property
    def environment(self) -> dict[str, str]:
        """Whole and small: Triton inherits no secret of the daemon's, and PYTHONPATH would lead its Python astray."""
        return {
            "PATH": f"{self.runtime.stub_bin}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": str(python_libraries()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "HOME": os.environ.get("HOME", "/"),
        }
