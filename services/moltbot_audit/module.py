"""The audit service's wiring."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import structlog
from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc

from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_audit.servicer import AuditServicer
from moltbot_audit.settings import AuditSettings
from moltbot_mesh.audit.administration import SPILL, waiting
from moltbot_mesh.call import current_call
from moltbot_mesh.errors import AlreadyExists, InvalidArgument, MoltbotError
from moltbot_mesh.module import Access, Module, Registration, Runtime, Service
from moltbot_mesh.threads import Threads
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")

_TENANT_METHODS = (
    "GetEvent", "Query", "GetTrace", "GetCheckpoint", "GetInclusionProof", "GetConsistencyProof", "GetReceipt",
    "Export",
)  # fmt: skip
_RECORDED = frozenset({"GetEvent", "Query", "GetTrace", "GetInclusionProof", "GetReceipt", "Export"})
_DAY_S = 86_400
_LOOK_S = 0.5
_THREADS = 4
_MAX_WAITING = 256


@contextlib.asynccontextmanager
async def open_audit(runtime: Runtime) -> AsyncGenerator[Service]:
    """Recover the log and serve."""
    settings = runtime.settings(AuditSettings)
    signer = Signer.load(runtime.data_dir / "log.key", settings.origin)
    ledger = await asyncio.to_thread(
        Ledger,
        runtime.data_dir / "log",
        signer,
        decode,
        settings.segment_bytes,
        settings.checkpoint_interval_s,
        sync=settings.sync == "always",
    )
    journal = _Journal(ledger, runtime)
    expiring = asyncio.create_task(_expire_daily(ledger, journal, settings.retention_days), name="audit-expiry")
    spill = runtime.shared_dir / SPILL
    taking = asyncio.create_task(_take_administration(ledger, spill), name="audit-administration")
    try:
        async with Threads("audit-read", _THREADS, _MAX_WAITING) as threads:
            servicer = AuditServicer(ledger, journal.read, threads)
            access = dict.fromkeys(_TENANT_METHODS, Access.TENANT) | {"Verify": Access.OPERATOR}
            add = audit_pb2_grpc.add_AuditServiceServicer_to_server
            registration = Registration(add, servicer, access, _RECORDED)
            yield Service((registration,), lambda: [ledger.problem] if ledger.problem else [])
    finally:
        expiring.cancel()
        taking.cancel()
        await asyncio.wait([expiring, taking])
        await asyncio.to_thread(ledger.close)


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
        event = self._event(audit_pb2.EVENT_TYPE_AUDIT_READ, f"/moltbot.audit.v1.AuditService/{method}", target)
        if reason:
            event.outcome, event.reason = audit_pb2.OUTCOME_REFUSED, reason
        await self._append(event)

    async def expired(self, records: int) -> None:
        """Record that segments went."""
        event = self._event(audit_pb2.EVENT_TYPE_ADMINISTRATION, "expire", "segments")
        event.attributes["records"] = str(records)
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


async def _expire_daily(ledger: Ledger, journal: _Journal, retention_days: int) -> None:
    while True:
        try:
            before_ns = time.time_ns() - retention_days * _DAY_S * 1_000_000_000
            records = await asyncio.to_thread(ledger.expire, before_ns)
            if records:
                log.info("audit records expired", records=records)
                await journal.expired(records)
        except (OSError, sqlite3.Error, MoltbotError) as error:
            log.warning("expired segments not removed; trying again tomorrow", error=str(error))
        await asyncio.sleep(_DAY_S)


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
                path.rename(path.with_name(f"{path.name}.refused"))
                log.critical("act of administration not logged", file=path.name, error=error.message)
            except (OSError, MoltbotError) as error:
                log.error("act of administration not logged; trying again", file=path.name, error=str(error))
                break
        await asyncio.sleep(_LOOK_S)


MODULE = Module("audit", (), open_audit)
