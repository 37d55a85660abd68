"""The whole configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from moltbot_audit.settings import AuditSettings
from moltbot_context.settings import ContextSettings
from moltbot_gateway.settings import GatewaySettings
from moltbot_mesh.audit.settings import RecordingSettings
from moltbot_mesh.second_factor import FactorPolicy
from moltbot_mesh.settings import Section
from moltbot_mesh.telemetry import TelemetrySettings
from moltbot_models.settings import EngineSettings
from moltbot_router.settings import RouterSettings
from moltbot_tool.settings import ToolSettings
from moltbot_watermark.settings import WatermarkSettings

_Port = Annotated[int, Field(ge=0, le=65535)]


class EnvoySettings(Section):
    """The front door."""

    concurrency: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker threads."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds that running requests may take to end when the daemon stops."""
    access_log_mib: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Size in MiB at which the access log (`run/access.log`) is put aside."""
    access_log_files: Annotated[int, Field(ge=0, le=100)] = 4
    """How many former access logs stay."""
    tls_certificate: Path | None = None
    """PEM chain; with `tls_key`, the port speaks TLS."""
    tls_key: Path | None = None
    """PEM key of the certificate."""


class InferenceSettings(EngineSettings):
    """The models that the daemon runs itself."""

    engine: Literal["auto", "triton", "embedded", "none"] = "auto"
    """`triton`: NVIDIA Triton as a child; `embedded`: the same engine in this process; `auto`: Triton where its wheel
    can be had; `none`: only the upstreams of `router.models`."""
    model_path: Path | None = None
    """Text model: a Hugging Face directory. The shipped tiny model if empty."""
    model_id: str = ""
    """Its id; the directory's name if empty."""
    embedder: bool = True
    """Whether the MiniLM embedder is served."""
    listen: str = ""
    """Address (`10.0.0.7:8001`) at which other machines use the models of Triton, by mutual TLS; empty: none do."""
    tls_certificate: Path | None = None
    """PEM chain that proves this node to them."""
    tls_key: Path | None = None
    """PEM key of the certificate."""
    tls_client_ca: Path | None = None
    """PEM authorities of their certificates."""
    tls_client_names: list[str] = []
    """DNS names or URIs, of which their certificates must have one; empty: any name."""


class SecuritySettings(Section):
    """Administrators' keys."""

    second_factor: Literal["required", "off"] = "required"
    """Whether calls that need a role of administration also need a code of a device (`moltbot keys enrol`): `required`
    or `off`."""
    session_idle_s: Annotated[float, Field(ge=30, le=86_400)] = 900.0
    """A code opens a session, which ends when no call comes for so long, in seconds."""
    session_s: Annotated[float, Field(ge=60, le=604_800)] = 28_800.0
    """Seconds after which a session ends, however much it is used."""
    wrong_codes: Annotated[int, Field(ge=1, le=100)] = 5
    """Wrong codes in a row that lock a key."""
    lock_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    """How long, in seconds."""

    @field_validator("second_factor", mode="before")
    @classmethod
    def _as_meant(cls, value: object) -> object:
        """YAML reads `off` as false."""
        return "off" if value is False else value

    def policy(self) -> FactorPolicy | None:
        """For the mesh; None if a key is enough."""
        if self.second_factor == "off":
            return None
        return FactorPolicy(self.session_idle_s, self.wrong_codes, self.lock_s, self.session_s)


class EtcdSettings(Section):
    """Discovery and shared configuration of separate services."""

    endpoints: list[str] = []
    """`127.0.0.1:2379`; empty for the daemon."""
    prefix: str = "/moltbot"
    """Before every key."""


class Settings(Section):
    """The whole configuration."""

    data_dir: Path = Path(".moltbot")
    """Everything that is kept."""
    cache_dir: Path = Path("~/.cache/moltbot")
    """What can be fetched again: Triton, the embedder's weights."""
    host: str = "127.0.0.1"
    """Address of the public port."""
    port: _Port = 8080
    """The public port: HTTP, SSE, gRPC and gRPC-Web."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged."""
    listen: str = ""
    """Address of one service's gRPC port under `moltbot serve` (`127.0.0.1:9001`); empty picks a free port."""
    listen_http: str = ""
    """Address of the gateway's HTTP port under `moltbot serve gateway`; empty picks a free port beside `listen`."""
    advertise: str = ""
    """Address under which other machines reach it; empty: `listen`."""
    mesh_key_file: Path | None = None
    """The key that all services share; `<data_dir>/mesh.key` if empty."""
    envoy: EnvoySettings = EnvoySettings()
    inference: InferenceSettings = InferenceSettings()
    security: SecuritySettings = SecuritySettings()
    etcd: EtcdSettings = EtcdSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    recording: RecordingSettings = RecordingSettings()
    gateway: GatewaySettings = GatewaySettings()
    router: RouterSettings = RouterSettings()
    context: ContextSettings = ContextSettings()
    tool: ToolSettings = ToolSettings()
    audit: AuditSettings = AuditSettings()
    watermark: WatermarkSettings = WatermarkSettings()
