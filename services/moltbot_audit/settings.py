"""The audit service's section of the configuration."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from moltbot_mesh.settings import Section

_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class ClickHouseSettings(Section):
    """A copy of the log in ClickHouse; `deploy/clickhouse/audit_events.sql` makes the table."""

    url: str = ""
    """Of its HTTP interface (`https://clickhouse.example:8443`), or `http://` to this machine; empty: no copy."""
    database: _Name = "moltbot"
    """Of the table."""
    table: _Name = "audit_events"
    """Takes the records."""
    user: Annotated[str, Field(pattern=r"^[!-~]{1,128}$")] = "default"
    """Who writes; needs INSERT and ALTER DELETE."""
    password_file: Path | None = None
    """The password, mode 0600; read again for each batch."""
    ca_file: Path | None = None
    """PEM certificates to trust instead of the system's."""
    batch_records: Annotated[int, Field(ge=1, le=100_000)] = 5000
    """Most records of an insert."""
    interval_s: Annotated[float, Field(ge=0.05, le=3600)] = 1.0
    """How long to wait for more records before a smaller insert, in seconds."""
    timeout_s: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    """How long an insert may take, in seconds."""

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise ValueError("an http or https URL without user, password and query is asked for")
        if parts.scheme == "http" and not _is_this_machine(parts.hostname):
            raise ValueError("records and password would cross the network in clear; use https")
        return url


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AuditSettings(Section):
    """The log."""

    origin: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s+]+$")] = "moltbot.local/audit"
    """Name of the log in its checkpoints (C2SP: a schema-less URL)."""
    sync: Literal["always", "never"] = "always"
    """When the disk is waited for. `always`: before a record is acknowledged. `never`: a power failure may cost
    acknowledged records; a killed process costs none."""
    segment_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = 64 << 20
    """Size of a segment file, allocated at once."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """Least time between two signed checkpoints, in seconds."""
    retention_days: Annotated[int, Field(ge=183)] = 400
    """Days that records are kept; the Cybersecurity Law asks for six months at least. Older segments are removed whole,
    their hashes stay."""
    witnesses: dict[str, str] = {}
    """Who cosigns checkpoints (C2SP tlog-witness): verifier keys by URL prefix. `moltbot audit witness` is one."""
    witness_interval_s: Annotated[float, Field(ge=0.1, le=86_400)] = 10.0
    """Time between two checkpoints that witnesses are asked to cosign, in seconds."""
    time_stamp_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    """An authority that stamps checkpoints with the time (RFC 3161); needs the extra `timestamp`. Empty: none."""
    time_stamp_ca_file: Path | None = None
    """Certificates (PEM) that its stamps must lead to."""
    time_stamp_interval_s: Annotated[float, Field(ge=1, le=604_800)] = 3600.0
    """Time between two stamps, in seconds."""
    gm: bool = False
    """Whether checkpoints are co-signed with SM2 and sealed segments digested with SM3 (GB/T 32918, 32905); needs the
    extra `gm`."""
    parquet: bool = True
    """Whether each sealed segment is also written as a Parquet file, for analysis; where DuckDB is installed."""
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    """A copy for analysis at scale."""
    bodies: Literal["none", "encrypted"] = "none"
    """Whether what requests say and are answered is kept. `encrypted`: for each data subject, so that it can be read in
    an inquiry and destroyed on demand. `none`: only keyed commitments to it stand in the log."""
    redact: tuple[str, ...] = ("api_key",)
    """Kinds of personal data that are taken out of bodies before they are kept: email, phone, identity_number,
    bank_card, api_key, ip_address."""
    redact_patterns: dict[str, str] = {}
    """Further ones: regular expressions by name. One that needs long for some text delays the keeping of others."""
