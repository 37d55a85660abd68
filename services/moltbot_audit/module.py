"""The audit service's wiring."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc, privacy_pb2_grpc

from moltbot_audit.adapters.clickhouse import open_clickhouse
from moltbot_audit.adapters.parquet_child import keep_parquet
from moltbot_audit.background import Background
from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.holds import Holds
from moltbot_audit.key_wrapping import MasterKey, load_secret
from moltbot_audit.ledger import Ledger
from moltbot_audit.privacy import Privacy
from moltbot_audit.privacy_servicer import PrivacyServicer
from moltbot_audit.redaction import rules_of
from moltbot_audit.segment_digests import sm3, undigested, write_digest
from moltbot_audit.servicer import AuditServicer
from moltbot_audit.settings import AuditSettings
from moltbot_audit.sink import Forwarder
from moltbot_audit.vault import Vault, pseudonym_key
from moltbot_mesh.audit.administration import SPILL, waiting
from moltbot_mesh.audit.sealing import Opener
from moltbot_mesh.call import current_call
from moltbot_mesh.durable import replace_durably
from moltbot_mesh.errors import AlreadyExists, InvalidArgument, MoltbotError
from moltbot_mesh.module import Access, Module, Registration, Runtime, Service
from moltbot_mesh.threads import Threads
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")

_TENANT_METHODS = (
    "GetEvent", "Query", "GetTrace", "GetCheckpoint", "GetInclusionProof", "GetConsistencyProof", "GetReceipt",
    "Export",
)  # fmt: skip
_PRIVACY_RECORDED = frozenset({"GetBody", "Shred", "PlaceHold", "ReleaseHold"})
_PRIVACY_ACCESS = {
    "GetBody": Access.AUDITOR,
    "PlaceHold": Access.AUDITOR,
    "ReleaseHold": Access.AUDITOR,
    "ListHolds": Access.AUDITOR,
    "Shred": Access.SECURITY,  # who destroys is not who may forbid it
}
_RECORDED = frozenset({"GetEvent", "Query", "GetTrace", "GetInclusionProof", "GetReceipt", "Export"})
_DAY_S = 86_400
_LOOK_S = 0.5
_SEALED_LOOK_S = 5.0
_THREADS = 4
_MAX_WAITING = 256


@contextlib.asynccontextmanager
async def open_audit(runtime: Runtime) -> AsyncGenerator[Service]:
    """Recover the log and serve."""
    settings = runtime.settings(AuditSettings)
    signer = _signer(runtime.data_dir, settings)
    async with contextlib.AsyncExitStack() as opened:
        ledger = await asyncio.to_thread(
            Ledger,
            runtime.data_dir / "log",
            signer,
            decode,
            settings.segment_bytes,
            settings.checkpoint_interval_s,
            sync=settings.sync == "always",
        )
        opened.push_async_callback(asyncio.to_thread, ledger.close)
        privacy = await asyncio.to_thread(_open_privacy, runtime.data_dir, settings)
        opened.push_async_callback(asyncio.to_thread, privacy.close)
        journal = _Journal(ledger, runtime)
        outward = await _outward(opened, ledger, runtime, settings)
        background = await opened.enter_async_context(Background())
        for name, work in outward.items():
            background.start(name, work())
        background.start("expiry", _expire_daily(ledger, privacy, journal, settings.retention_days))
        background.start("administration", _take_administration(ledger, runtime.shared_dir / SPILL))
        background.start("digest", _digest_sealed(ledger, journal, settings))
        parquet = keep_parquet(ledger.directory, lambda: ledger.checkpoint()[1].size, write=settings.parquet)
        background.start("parquet", parquet)
        threads = await opened.enter_async_context(Threads("audit-read", _THREADS, _MAX_WAITING))
        servicer = AuditServicer(ledger, journal.read, threads)
        access = dict.fromkeys(_TENANT_METHODS, Access.TENANT) | {"Verify": Access.AUDITOR}
        add = audit_pb2_grpc.add_AuditServiceServicer_to_server
        registration = Registration(add, servicer, access, _RECORDED)
        keeps = settings.bodies == "encrypted"
        keeper = PrivacyServicer(privacy, journal.read_body, journal.act, threads, keeps=keeps)
        add_privacy = privacy_pb2_grpc.add_PrivacyServiceServicer_to_server
        of_privacy = Registration(add_privacy, keeper, _PRIVACY_ACCESS, _PRIVACY_RECORDED)
        yield Service(
            (registration, of_privacy),
            lambda: [*([ledger.problem] if ledger.problem else []), *background.ended],
        )


def _signer(directory: Path, settings: AuditSettings) -> Signer:
    beside: list[Callable[[str], str]] = []
    if settings.gm:
        from moltbot_audit.adapters.sm2 import Sm2Cosigner  # noqa: PLC0415 - an extra

        sm2 = Sm2Cosigner.load(directory / "log.sm2.key", settings.origin)
        (directory / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_durably(directory / "log" / "log.sm2.key.pub", f"{sm2.verifier_key}\n".encode())
        beside.append(sm2.line)
    return Signer.load(directory / "log.key", settings.origin, beside)


async def _outward(
    opened: contextlib.AsyncExitStack, ledger: Ledger, runtime: Runtime, settings: AuditSettings
) -> dict[str, Callable[[], Coroutine[None, None, None]]]:
    """What takes the log to others, by name. Made before anything is served: a wrong setting refuses the start.

    Whatever keeps them from it later is in the log and, where they lag, in a metric; the service serves on.
    """
    found: dict[str, Callable[[], Coroutine[None, None, None]]] = {}
    if settings.time_stamp_url:
        from moltbot_audit.adapters.time_stamps import TimeStamper  # noqa: PLC0415 - an extra

        if settings.time_stamp_ca_file is None:
            raise InvalidArgument("audit.time_stamp_ca_file: name the certificates that time stamps must lead to")
        interval_s = settings.time_stamp_interval_s
        found["time-stamp"] = TimeStamper(ledger, settings.time_stamp_url, settings.time_stamp_ca_file, interval_s).run
    if settings.witnesses:
        from moltbot_audit.adapters.witness_http import WitnessFollower  # noqa: PLC0415 - brings an HTTP client

        found["witness"] = WitnessFollower(ledger, settings.witnesses, settings.witness_interval_s).run
    if settings.clickhouse.url:
        forwarder = Forwarder(
            ledger,
            await opened.enter_async_context(open_clickhouse(settings.clickhouse)),
            runtime.data_dir / "clickhouse.position",
            batch_records=settings.clickhouse.batch_records,
            interval_s=settings.clickhouse.interval_s,
        )
        lag = runtime.telemetry.metrics.audit_sink_lag.labels("clickhouse")
        lag.set_function(lambda: forwarder.lag_records)
        found["clickhouse"] = forwarder.run
    return found


def _open_privacy(directory: Path, settings: AuditSettings) -> Privacy:
    rules = rules_of(settings.redact, settings.redact_patterns)
    vault = Vault(directory / "vault.sqlite", MasterKey.load(directory / "vault.key"))
    private = X25519PrivateKey.from_private_bytes(load_secret(directory / "bodies.key"))
    pseudonyms = pseudonym_key(load_secret(directory / "vault.key"))
    return Privacy(vault, Holds(directory / "holds.sqlite"), Opener(private), rules, pseudonyms)


class _Journal:
    """What the log records of itself.

    Args:
        ledger: The log.
        runtime: Of the module.
    """

    def __init__(self, ledger: Ledger, runtime: Runtime) -> None:
        self._ledger = ledger
        self._runtime = runtime

    async def read(self, method: str, target: str, reason: str) -> None:
        """Record a read, or one that was refused."""
        await self._read(f"/moltbot.audit.v1.AuditService/{method}", target, reason)

    async def read_body(self, method: str, target: str, reason: str) -> None:
        """Record a read of bodies, or one that was refused."""
        await self._read(f"/moltbot.audit.v1.PrivacyService/{method}", target, reason)

    async def act(self, action: str, target: str, facts: Mapping[str, str]) -> None:
        """Record an act, before it happens or what it did; durable when this returns."""
        event = self._event(audit_pb2.EVENT_TYPE_ADMINISTRATION, action, target)
        event.attributes.update(facts)
        await self._append(event)

    async def _read(self, action: str, target: str, reason: str) -> None:
        event = self._event(audit_pb2.EVENT_TYPE_AUDIT_READ, action, target)
        if reason:
            event.outcome, event.reason = audit_pb2.OUTCOME_REFUSED, reason
        await self._append(event)

    def _event(self, kind: audit_pb2.EventType.ValueType, action: str, target: str) -> audit_pb2.AuditEvent:
        call = current_call()
        return audit_pb2.AuditEvent(
            event_id=uuid7(),
            time_unix_ns=time.time_ns(),
            type=kind,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            subject=call.principal.subject if call else self._runtime.module,
            tenant=call.principal.tenant if call else "",
            action=action,
            object=target[:512],
            request_id=call.request_id[:128] if call else "",
            trace_id=call.trace.trace_id if call else b"",
            span_id=call.trace.span_id if call else b"",
            peer=call.peer[:64] if call else "",
            service=self._runtime.module,
            instance=self._runtime.instance,
        )

    async def _append(self, event: audit_pb2.AuditEvent) -> None:
        await asyncio.to_thread(self._ledger.append, [decode(event.SerializeToString())])


async def _expire_daily(ledger: Ledger, privacy: Privacy, journal: _Journal, retention_days: int) -> None:
    while True:
        before_ns = time.time_ns() - retention_days * _DAY_S * 1_000_000_000
        for what, expired in (
            ("segments", partial(_expire_segments, ledger, privacy)),
            ("bodies", partial(_expire_bodies, privacy)),
        ):
            try:
                await expired(journal, before_ns)
            except (OSError, sqlite3.Error, MoltbotError) as error:  # one must not keep the other from going
                log.warning("what has expired is not removed; trying again tomorrow", what=what, error=str(error))
        await asyncio.sleep(_DAY_S)


async def _expire_segments(ledger: Ledger, privacy: Privacy, journal: _Journal, before_ns: int) -> None:
    """Record what is to go, let it go, record what went; a hold that is acknowledged before they go keeps them."""

    def held() -> list[tuple[str, bytes]]:
        return [(hold.tenant, bytes.fromhex(hold.trace_id)) for hold in privacy.held]

    going = await asyncio.to_thread(lambda: ledger.expiring(before_ns, held()))
    if not going:
        return
    await journal.act("expire", "segments", {"before_ns": str(before_ns), "records": str(going)})
    oldest = ledger.oldest
    try:
        await asyncio.to_thread(privacy.under_decision, lambda: ledger.expire(before_ns, held()))
    finally:  # a disk that fails may have let some of them go
        gone = ledger.oldest - oldest
        log.info("audit records expired", records=gone)
        await journal.act("expired", "segments", {"records": str(gone)})


async def _expire_bodies(privacy: Privacy, journal: _Journal, before_ns: int) -> None:
    gone = await asyncio.to_thread(privacy.expire, before_ns)
    if gone:
        log.info("bodies expired", bodies=gone)
        await journal.act("expired", "bodies", {"before_ns": str(before_ns), "bodies": str(gone)})


async def _digest_sealed(ledger: Ledger, journal: _Journal, settings: AuditSettings) -> None:
    """Digest segments once they are sealed: in the log first, so a digest beside a segment always has its record."""
    while settings.gm:
        found: list[Path] = []
        try:
            found = await asyncio.to_thread(undigested, ledger.directory / "segments")
        except OSError as error:
            log.warning("segments not looked at; trying again", error=str(error))
        for path in found:
            try:
                digest = await asyncio.to_thread(sm3, path)
                await journal.act("seal segment", path.name, {"sm3": digest})
                await asyncio.to_thread(write_digest, path, digest)
            except (OSError, MoltbotError) as error:
                log.warning("sealed segment not digested; trying again", segment=path.name, error=str(error))
        await asyncio.sleep(_SEALED_LOOK_S)


async def _take_administration(ledger: Ledger, directory: Path) -> None:
    """Take what the command line did into the log; an event that was taken before keeps its place."""
    while True:
        for path in waiting(directory):
            try:
                await asyncio.to_thread(ledger.append, [decode(path.read_bytes())])
                path.unlink()
            except (
                InvalidArgument,
                AlreadyExists,
            ) as error:  # never mended by waiting; the others must not wait for it
                with contextlib.suppress(OSError):  # then it is refused again
                    path.rename(path.with_name(f"{path.name}.refused"))
                log.critical("act of administration not logged", file=path.name, error=error.message)
            except (OSError, MoltbotError) as error:
                log.error("act of administration not logged; trying again", file=path.name, error=str(error))
                break
        await asyncio.sleep(_LOOK_S)


MODULE = Module("audit", (), open_audit)
