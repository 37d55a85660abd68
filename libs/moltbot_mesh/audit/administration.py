"""Acts of administration by the command line, written to files that the audit service takes into its log.

The act is on disk before the command says that it is done, whether the audit service runs or not.
"""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot.audit.v1 import audit_pb2

from moltbot_mesh import durable
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.uuid7 import uuid7, uuid_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_BYTES = 65_536
"""Of an event, serialised: more the log refuses."""
SPILL = Path("cli", "audit-spill")
"""Where the events wait, below the shared data directory."""


def administration_event(
    directory: Path,
    action: str,
    target: str,
    tenant: str,
    *,
    kind: audit_pb2.EventType.ValueType = audit_pb2.EVENT_TYPE_ADMINISTRATION,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write an event, durably.

    Args:
        directory: Of such events; made if it is not there.
        action: What was done (`keys create`).
        target: To what.
        tenant: For whom.
        kind: A read of the log is no administration.
        facts: Others.

    Raises:
        InvalidArgument: The event is larger than the log takes; nothing is written.
    """
    event = audit_pb2.AuditEvent(
        event_id=uuid7(),
        time_unix_ns=time.time_ns(),
        type=kind,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        tenant=tenant,
        subject=f"os-user:{_user()}",
        action=action,
        object=target,
        ingress=audit_pb2.INGRESS_CLASS_LOCAL,
        service="cli",
        attributes=facts,
    )
    serialised = event.SerializeToString()
    if len(serialised) > _MOST_BYTES:
        raise InvalidArgument(
            f"{action}: the record of this would have {len(serialised)} bytes; the log takes {_MOST_BYTES}: say less"
        )
    durable.make_directories(directory)
    durable.create_durably(directory / f"{uuid_text(event.event_id)}.event", serialised)


def _user() -> str:
    """Who runs this, as the system knows it: the environment says what anybody writes into it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container a user often has no name
        return str(os.getuid())


def waiting(directory: Path) -> list[Path]:
    """Files of events that are not in the log yet, oldest first; each holds one serialised AuditEvent."""
    return sorted(directory.glob("*.event"))
