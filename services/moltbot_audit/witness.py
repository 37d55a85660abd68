"""A witness: somebody else's program that signs a log's checkpoints as long as the log only grows.

It remembers one checkpoint of each log. Whoever shows two readers two histories, or goes back to an earlier one, gets
no signature for the second. Run it where those who run the log have no say.

Source: C2SP tlog-witness (https://c2sp.org/tlog-witness).
"""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from moltbot_audit import merkle
from moltbot_audit.checkpoint import Checkpoint, parse, verify
from moltbot_mesh.durable import make_directories, replace_durably
from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moltbot_audit.checkpoint import Cosigner

_MOST_PROOF_LINES = 63
SIZE_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a witness answers, as HTTP."""

    status: int
    body: str
    content_type: str = "text/plain"


class Witness:
    """Checks and cosigns. Any thread may ask.

    Args:
        logs: Verifier keys of the logs it knows, by origin.
        cosigner: Its own key.
        directory: For the newest checkpoint of each log; made if it is not there.
    """

    def __init__(self, logs: Mapping[str, str], cosigner: Cosigner, directory: Path) -> None:
        self._logs, self._cosigner, self._directory = logs, cosigner, directory
        self._lock = threading.Lock()
        make_directories(directory)

    def add_checkpoint(self, request: str) -> Reply:
        """Answer a request of `add-checkpoint`; what was cosigned is on disk first."""
        head, _, note = request.partition("\n\n")
        old_line, *proof_lines = head.split("\n")
        try:
            word, _, text = old_line.partition(" ")
            old = int(text)
            proof = [base64.b64decode(line, validate=True) for line in proof_lines]
            asked = parse(note)
        except (ValueError, DataLoss):
            return Reply(400, "the request does not read old size, proof, checkpoint\n")
        if word != "old" or str(old) != text or len(proof) > _MOST_PROOF_LINES or not 0 <= old <= asked.size:
            return Reply(400, "the old size is not one that the checkpoint can follow\n")
        key = self._logs.get(asked.origin)
        if key is None:
            return Reply(404, "this witness does not know the log\n")
        try:
            verify(note, key)
        except DataLoss:
            return Reply(403, "the checkpoint is not signed by the log\n")
        with self._lock:
            return self._cosigned(asked, old, proof, note)

    def _cosigned(self, asked: Checkpoint, old: int, proof: list[bytes], note: str) -> Reply:
        file = self._directory / f"{sha256(asked.origin.encode()).hexdigest()}.checkpoint"
        before = parse(file.read_text("utf-8")) if file.exists() else None
        seen = before.size if before else 0
        if old != seen or (before and asked.size == seen and asked.root != before.root):
            return Reply(409, f"{seen}\n", SIZE_TYPE)
        root = before.root if before else merkle.EMPTY_ROOT
        if not merkle.verify_consistency(seen, asked.size, proof, root, asked.root):
            return Reply(422, "the checkpoint does not extend the one that was cosigned before\n")
        replace_durably(file, note.encode())
        return Reply(200, self._cosigner.cosign(asked.body, int(time.time())))
