"""Acts of administration by the command line, written to files that the audit service takes into its log.

The act is on disk before the command says that it is done, whether the audit service runs or not.
"""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path

from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.uuid7 import uuid7, uuid_text

SPILL = Path("cli", "audit-spill")
"""Where the events wait, below the shared data directory."""


def administration_event(directory: Path, action: str, target: str, tenant: str) -> None:
    """Write an event, durably.

    Args:
        directory: Of such events; made if it is not there.
        action: What was done (`keys create`).
        target: To what.
        tenant: For whom.
    """
    event = audit_pb2.AuditEvent(
        event_id=uuid7(),
        time_unix_ns=time.time_ns(),
        type=audit_pb2.EVENT_TYPE_ADMINISTRATION,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        tenant=tenant,
        subject=f"os-user:{getpass.getuser()}",
        action=action,
        object=target,
        ingress=audit_pb2.INGRESS_CLASS_LOCAL,
        service="cli",
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{uuid_text(event.event_id)}.event"
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(event.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def waiting(directory: Path) -> list[Path]:
    """Files of events that are not in the log yet, oldest first; each holds one serialised AuditEvent."""
    return sorted(directory.glob("*.event"))
