"""What becomes of bodies: kept after redaction, shown, shredded, expired; holds come before the last two."""

from __future__ import annotations

import hmac
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from moltbot_audit.redaction import redact_body
from moltbot_audit.vault import subject_id
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moltbot.audit.v1 import audit_pb2, privacy_pb2

    from moltbot_audit.holds import Hold, Holds
    from moltbot_audit.redaction import Rule
    from moltbot_audit.vault import Vault
    from moltbot_mesh.audit.sealing import Opener

T = TypeVar("T")
_EVENT_ID_BYTES, _TRACE_ID_BYTES = 16, 16


class Privacy:
    """The bodies of one installation. Its methods may be called from any thread; all block.

    Args:
        vault: Where they lie.
        holds: What must stay.
        opener: Opens what producers sealed.
        rules: Of redaction.
        pseudonym_key: See `pseudonym`; 32 bytes.
    """

    def __init__(self, vault: Vault, holds: Holds, opener: Opener, rules: Sequence[Rule], pseudonym_key: bytes) -> None:
        self._pseudonym_key = pseudonym_key
        self._vault, self._holds, self._opener, self._rules = vault, holds, opener, rules
        self._opening, self._deciding = threading.Lock(), threading.Lock()

    @property
    def public_key(self) -> bytes:
        """What bodies are sealed to."""
        return self._opener.public_key

    def pseudonym(self, tenant: str, name: str) -> str:
        """What the log calls a data subject: its name could not be erased there, nor may it be found by guessing."""
        return f"subject:{hmac.digest(self._pseudonym_key, subject_id(tenant, name), 'sha256')[:16].hex()}"

    def keep(self, sealed: Sequence[privacy_pb2.SealedBody]) -> int:
        """Open, redact and keep bodies; how many are new.

        Raises:
            InvalidArgument: One cannot be opened, or is not whole.
        """
        with self._opening:
            bodies = [(one.event_id, self._opener.open(one)) for one in sealed]
        for event_id, body in bodies:
            if len(event_id) != _EVENT_ID_BYTES or not body.tenant or not body.data_subject or not body.time_unix_ns:
                raise InvalidArgument("a body must have an event_id of 16 bytes, tenant, data_subject and time_unix_ns")
            self._redact(body)
        with self._deciding:
            holds = self._holds.active()
            return self._vault.put(bodies, lambda body: any(hold.covers(body) for hold in holds))

    def _redact(self, body: privacy_pb2.Body) -> None:
        for name in ("input", "reasoning", "output"):
            data, changed = redact_body(getattr(body, name), self._rules)
            if changed:
                setattr(body, name, data)
                for rule, count in changed.items():
                    body.redacted[rule] += count

    def body(self, event_id: bytes) -> privacy_pb2.Body:
        """The bodies of an event.

        Raises:
            NotFound: None are kept.
        """
        return self._vault.get(event_id)

    def shred_subject(self, tenant: str, name: str) -> int:
        """Destroy all of a data subject; of how many events.

        Raises:
            FailedPrecondition: A hold forbids it.
        """
        with self._deciding:
            self._refuse_held(("subject", subject_id(tenant, name)), Held(tenant, name))
            return self._vault.shred_subject(tenant, name, time.time_ns())

    def shred_trace(self, trace_id: bytes) -> int:
        """Destroy all of a trace; of how many events.

        Raises:
            FailedPrecondition: A hold forbids it.
            InvalidArgument: That is no trace.
        """
        if len(trace_id) != _TRACE_ID_BYTES:
            raise InvalidArgument("trace_id: 32 hex digits are asked for")
        with self._deciding:
            self._refuse_held(("trace_id", trace_id), Held(trace_id=trace_id.hex()))
            return self._vault.shred_trace(trace_id, time.time_ns())

    def _refuse_held(self, what: tuple[str, bytes], asked: Held) -> None:
        for hold in self._holds.active():
            if asked.is_of(hold) or self._vault.overlap(what, hold.body_column):
                raise FailedPrecondition(f"hold {hold.hold_id} ({hold.reason}) forbids it; it must be released first")

    def place_hold(self, hold: privacy_pb2.Hold, placed_by: str) -> Hold:
        """Place a hold; see `Holds.place`."""
        with self._deciding:
            return self._holds.place(hold.tenant, hold.data_subject, hold.trace_id, hold.reason, placed_by)

    def release_hold(self, hold_id: str) -> Hold:
        """End a hold; see `Holds.release`."""
        return self._holds.release(hold_id)

    def holds(self, before: str, limit: int) -> list[Hold]:
        """The holds; see `Holds.all`."""
        return self._holds.all(before, limit)

    def is_held(self, event: audit_pb2.AuditEvent) -> bool:
        """Whether a hold keeps a record from expiring."""
        return any(
            hold.trace_id == event.trace_id.hex() if hold.trace_id else hold.tenant == event.tenant
            for hold in self._holds.active()
        )

    @property
    def held(self) -> list[Hold]:
        """The holds that are in force."""
        return self._holds.active()

    def expire(self, before_ns: int) -> int:
        """Destroy what is older and not held; of how many events."""
        with self._deciding:
            return self._vault.expire(before_ns, [hold.body_column for hold in self._holds.active()])

    def close(self) -> None:
        """Close the databases."""
        self._vault.close()
        self._holds.close()

    def under_decision(self, work: Callable[[], T]) -> T:
        """Do some work while no hold is placed and nothing else destroyed."""
        with self._deciding:
            return work()


class Held:
    """What is asked to be destroyed, as holds name it."""

    def __init__(self, tenant: str = "", data_subject: str = "", trace_id: str = "") -> None:
        self._tenant, self._data_subject, self._trace_id = tenant, data_subject, trace_id

    def is_of(self, hold: Hold) -> bool:
        """Whether the hold names it, even if nothing of it is kept."""
        if self._trace_id:
            return hold.trace_id == self._trace_id
        return hold.tenant == self._tenant and not hold.trace_id and hold.data_subject in {"", self._data_subject}
