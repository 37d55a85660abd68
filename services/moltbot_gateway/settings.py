"""The gateway's section of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moltbot_gateway.media_check import MediaLimits
from moltbot_mesh.settings import Section

_Positive = Annotated[int, Field(ge=1)]


class TenantLimits(Section):
    """What one tenant may use."""

    requests_per_minute: Annotated[int, Field(ge=0)] = 0
    """Requests a minute, as a bucket that refills evenly; 0 is no limit."""
    tokens_per_minute: Annotated[int, Field(ge=0)] = 0
    """Tokens of prompts and answers a minute; 0 is no limit."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Share of the admission queue against other tenants that wait."""
    mark: bool = False
    """Whether answers carry the Unicode mark unless a request says otherwise."""


class GatewaySettings(Section):
    """The public API."""

    max_in_flight: _Positive = 256
    """Requests that are answered at the same time; more wait in the queue. One tenant holds seven eighths at most."""
    max_queued: _Positive = 1024
    """Requests that may wait, seven eighths of them of one tenant; more are refused with 429."""
    max_queue_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds a request may wait before it is refused with 429."""
    body_limit_bytes: _Positive = 16 << 20
    """Largest body, in bytes; Envoy has the same limit."""
    max_image_bytes: _Positive = 10 << 20
    """Largest image in a message, in bytes of its file; in JSON it takes a third more of the body."""
    max_audio_bytes: _Positive = 10 << 20
    """Largest sound in a message, in bytes of its file."""
    max_media_parts: Annotated[int, Field(ge=0, le=64)] = 16
    """Images and sounds in one request; 0 refuses all."""
    max_attempts: Annotated[int, Field(ge=1, le=16)] = 4
    """Models that are tried for one request until the first token has gone out."""
    max_tool_steps: Annotated[int, Field(ge=1, le=64)] = 8
    """Steps of the loop of model and tools within one request."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds one request may take when the client sets no deadline."""
    default_max_tokens: Annotated[int, Field(ge=1)] = 1024
    """Most tokens in an answer when neither the request nor the manifest says."""
    prompt_budget_tokens: Annotated[int, Field(ge=64)] = 3000
    """Tokens of a prompt that is put together from a session, when the model's context is not known."""
    stream_interval_ms: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Tokens that arrive within this time after a chunk was sent go out together."""
    default_limits: TenantLimits = TenantLimits()
    """Of tenants that are not named below."""
    tenants: dict[str, TenantLimits] = {}
    """Limits by tenant."""
    quota_store: Literal["process", "redis"] = "process"
    """Where quotas are counted: in each gateway, or in Redis for all of them (`redis_url`)."""
    redis_url: str = ""
    """`redis://127.0.0.1:6379/0`; used by `quota_store: redis`."""
    quota_fail_closed: bool = True
    """Whether requests are refused when Redis cannot be reached."""

    @property
    def media_limits(self) -> MediaLimits:
        """What one request may carry beside text."""
        return MediaLimits(self.max_image_bytes, self.max_audio_bytes, self.max_media_parts)

    def limits(self, tenant: str) -> TenantLimits:
        """The limits of one tenant."""
        return self.tenants.get(tenant, self.default_limits)
