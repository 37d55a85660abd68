"""The bodies of requests, encrypted for the data subjects they are about.

Each data subject of a tenant has a key, wrapped by the master key, and each event a content key, wrapped by its
subject's. Shredding destroys keys and ciphertext; the log's records stay and prove what they proved. What was shredded
does not come back: a body that arrives late is not kept.

Source: NIST SP 800-88 revision 1 section 2.6 (cryptographic erase); SP 800-38D (GCM).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from moltbot.audit.v1 import privacy_pb2

from moltbot_mesh.errors import DataLoss, NotFound, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from moltbot_audit.key_wrapping import KeyWrapper

log = structlog.get_logger("moltbot.audit")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS subjects (
    subject BLOB PRIMARY KEY, tenant TEXT NOT NULL, wrapped_key BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bodies (
    event_id BLOB PRIMARY KEY, subject BLOB NOT NULL, trace_id BLOB NOT NULL, time_ns INTEGER NOT NULL,
    wrapped_key BLOB NOT NULL, ciphertext BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bodies_by_subject ON bodies (subject);
CREATE INDEX IF NOT EXISTS bodies_by_trace ON bodies (trace_id) WHERE trace_id <> x'';
CREATE INDEX IF NOT EXISTS bodies_by_time ON bodies (time_ns);
CREATE TABLE IF NOT EXISTS shredded (what BLOB PRIMARY KEY, until_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_NONCE_BYTES = 12


def subject_id(tenant: str, name: str) -> bytes:
    """What a data subject is called within the vault, 16 bytes."""
    return hashlib.sha256(f"{len(tenant)}:{tenant}{name}".encode()).digest()[:16]


def pseudonym_key(secret: bytes) -> bytes:
    """Keys the names of data subjects in the log; from a secret that lies with the vault, 32 bytes."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"moltbot audit pseudonyms").derive(secret)


class Vault:
    """The bodies of one installation. Its methods may be called from any thread; all block.

    Args:
        path: Of the database.
        master: Wraps the subjects' keys.

    Raises:
        Unavailable: It cannot be opened.
    """

    def __init__(self, path: Path, master: KeyWrapper) -> None:
        self._master = master
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            # What is deleted is overwritten with zeros, in the file too: WAL frames go with the checkpoint in `_erase`.
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._forget_writing()
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: the vault cannot be opened: {error}") from error
        path.chmod(0o600)

    def put(
        self,
        bodies: Sequence[tuple[bytes, privacy_pb2.Body]],
        held: Callable[[privacy_pb2.Body], bool] = lambda _: False,
    ) -> int:
        """Keep the bodies of events; they are on disk when this returns.

        Args:
            bodies: Event ids, 16 bytes, and their bodies. One whose subject's key is damaged is reported and left out.
            held: Whether a body must stay, though it was shredded before it came.

        Returns:
            How many are new: what is kept already or was shredded is not.

        Raises:
            ResourceExhausted: The disk is full.
            Unavailable: It fails.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    kept = sum(self._put(event_id, body, shreds=not held(body)) for event_id, body in bodies)
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise _refusal(error) from error
        return kept

    def _put(self, event_id: bytes, body: privacy_pb2.Body, *, shreds: bool) -> bool:
        subject = subject_id(body.tenant, body.data_subject)
        for what in (subject, body.trace_id) if shreds else ():
            row = self._db.execute("SELECT until_ns FROM shredded WHERE what = ?", (what,)).fetchone() if what else None
            if row and body.time_unix_ns <= row[0]:
                return False
        if self._db.execute("SELECT 1 FROM bodies WHERE event_id = ?", (event_id,)).fetchone():
            return False
        try:
            subject_key = self._subject_key(subject, body.tenant)
        except DataLoss as error:
            log.critical("a body is not kept", event_id=event_id.hex(), error=error.message)
            return False
        key, nonce = AESGCM.generate_key(256), os.urandom(_NONCE_BYTES)
        ciphertext = nonce + AESGCM(key).encrypt(nonce, body.SerializeToString(), event_id)
        wrapped_nonce = os.urandom(_NONCE_BYTES)
        wrapped = wrapped_nonce + AESGCM(subject_key).encrypt(wrapped_nonce, key, event_id)
        row = (event_id, subject, body.trace_id, body.time_unix_ns, wrapped, ciphertext)
        self._db.execute("INSERT INTO bodies VALUES (?,?,?,?,?,?)", row)
        return True

    def _subject_key(self, subject: bytes, tenant: str) -> bytes:
        row = self._db.execute("SELECT wrapped_key FROM subjects WHERE subject = ?", (subject,)).fetchone()
        if row is not None:
            return self._master.unwrap(row[0], subject)
        key = AESGCM.generate_key(256)
        self._db.execute("INSERT INTO subjects VALUES (?,?,?)", (subject, tenant, self._master.wrap(key, subject)))
        return key

    def get(self, event_id: bytes) -> privacy_pb2.Body:
        """The bodies of an event.

        Raises:
            NotFound: None are kept.
            DataLoss: They are damaged.
        """
        with self._lock:
            row = self._db.execute(
                "SELECT b.wrapped_key, b.ciphertext, b.subject, s.wrapped_key FROM bodies b JOIN subjects s"
                " ON s.subject = b.subject WHERE event_id = ?",
                (event_id,),
            ).fetchone()
        if row is None:
            raise NotFound("no bodies of this event are kept, or they were shredded or have expired")
        wrapped, ciphertext, subject, subject_key = row
        try:
            key = AESGCM(self._master.unwrap(subject_key, subject)).decrypt(
                wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], event_id
            )
            plain = AESGCM(key).decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], event_id)
        except (InvalidTag, ValueError):
            raise DataLoss(f"the bodies of event {event_id.hex()} are damaged") from None
        return privacy_pb2.Body.FromString(plain)

    def shred_subject(self, tenant: str, name: str, now_ns: int) -> int:
        """Destroy the key and the bodies of a data subject, and what of them is still on its way.

        Returns:
            Of how many events.
        """
        subject = subject_id(tenant, name)
        return self._erase(subject, now_ns, ("bodies", "subject"), ("subjects", "subject"))

    def shred_trace(self, trace_id: bytes, now_ns: int) -> int:
        """Likewise of a trace; its subjects keep their keys."""
        return self._erase(trace_id, now_ns, ("bodies", "trace_id"))

    def expire(self, before_ns: int, held: Sequence[tuple[str, bytes]]) -> int:
        """Destroy bodies of events before a time, but for those of held subjects and traces.

        Args:
            before_ns: Nanoseconds since the epoch.
            held: Columns (`subject`, `trace_id`, `tenant`) and what in them must stay.

        Returns:
            Of how many events.
        """
        clauses, values = ["time_ns < ?"], [before_ns, *(_value(one) for one in held)]
        clauses += [f"NOT ({_clause(one)})" for one in held]
        with self._lock:
            gone = self._db.execute(f"DELETE FROM bodies WHERE {' AND '.join(clauses)}", values).rowcount  # noqa: S608 - our own names
            self._forget_writing()
        return gone

    def overlap(self, one: tuple[str, bytes], other: tuple[str, bytes]) -> bool:
        """Whether bodies are kept that are of both; each is a column as in `expire`, and what stands in it."""
        statement = f"SELECT 1 FROM bodies WHERE {_clause(one)} AND {_clause(other)} LIMIT 1"  # noqa: S608 - our own names
        with self._lock:
            return self._db.execute(statement, (_value(one), _value(other))).fetchone() is not None

    def _erase(self, what: bytes, now_ns: int, *tables: tuple[str, str]) -> int:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("INSERT OR REPLACE INTO shredded VALUES (?, ?)", (what, now_ns))
                gone = [
                    self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (what,)).rowcount  # noqa: S608 - our own names
                    for table, column in tables
                ]
                self._db.execute("COMMIT")
                emptied = self._forget_writing()
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise _refusal(error) from error
        if not emptied:
            raise Unavailable("the bodies are deleted, but another process reads the vault's file: shred again")
        return gone[0]

    def _forget_writing(self) -> bool:
        """Empty the write-ahead log, which has pages as they were; whether nobody who reads them hindered it."""
        emptied = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        if not emptied:
            log.warning("the vault's write-ahead log is not emptied: another process reads it")
        return emptied

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


def _clause(found: tuple[str, bytes]) -> str:
    column = found[0]
    return "subject IN (SELECT subject FROM subjects WHERE tenant = ?)" if column == "tenant" else f"{column} = ?"


def _value(found: tuple[str, bytes]) -> bytes | str:
    column, value = found
    return value.decode() if column == "tenant" else value


def _refusal(error: sqlite3.Error) -> ResourceExhausted | Unavailable:
    if "full" in str(error):
        return ResourceExhausted("the vault's disk is full; free some space", reason="AUDIT_UNAVAILABLE")
    return Unavailable(f"the vault fails: {error}", reason="AUDIT_UNAVAILABLE")
