"""Whatever is changed in a log, at whatever place, is found, and the place is named.

`MOLTBOT_TAMPER_TRIALS` sets how many places of each kind are tried (5 by default); run as a command, this file prints a
table: `python tests/unit/moltbot_audit/test_tampering.py 200`, `make test-audit-tamper`.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_audit.merkle import leaf_hash
from moltbot_audit.segment import read, segments
from moltbot_audit.tiles import Tree
from moltbot_audit.verify import verify_directory
from moltbot_mesh.audit import frames
from moltbot_mesh.uuid7 import uuid7

TRIALS = int(os.environ.get("MOLTBOT_TAMPER_TRIALS", "5"))
RECORDS = 1000


def make_log(root: Path, count: int = RECORDS) -> Path:
    """A closed log in several segments."""
    ledger = Ledger(root / "log", Signer.load(root / "log.key", "test/log"), decode, 1 << 14, 0.02)
    for start in range(0, count, 50):
        events = [
            audit_pb2.AuditEvent(
                event_id=uuid7(),
                time_unix_ns=1 + start + n,
                type=audit_pb2.EVENT_TYPE_REQUEST,
                outcome=audit_pb2.OUTCOME_SUCCESS,
                subject="key-1",
                action="POST /v1/chat/completions",
                object="x" * random.randrange(60),
            )
            for n in range(50)
        ]
        ledger.append([decode(one.SerializeToString()) for one in events])
    ledger.close()
    return root / "log"


def frames_of(path: Path, first: int) -> list[frames.Frame]:
    return [item for item in read(path, first) if isinstance(item, frames.Frame)]


def rewrite(path: Path, found: list[tuple[int, bytes]]) -> None:
    """The same file with other frames in it, their checksums right."""
    size = path.stat().st_size
    data = path.read_bytes()[:16] + b"".join(frames.encode(n, [payload], commit=False)[0] for n, payload in found)
    path.write_bytes(data + bytes(size - len(data)))


def any_segment(log: Path, at_least: int = 2) -> tuple[Path, list[frames.Frame]]:
    found = [(path, frames_of(path, first)) for first, path in segments(log / "segments")]
    return random.choice([one for one in found if len(one[1]) >= at_least])


# Each changes a log and says what the report must name.


def flipped_bit(log: Path) -> str:
    path, found = any_segment(log)
    frame = random.choice(found)
    data = bytearray(path.read_bytes())
    data[random.randrange(frame.offset, frame.end)] ^= 1 << random.randrange(8)
    path.write_bytes(data)
    return f"record {frame.number})"


def flipped_bit_with_its_checksum(log: Path) -> str:
    path, found = any_segment(log)
    frame = random.choice(found)
    payload = bytearray(frame.payload)
    payload[random.randrange(len(payload))] ^= 1 << random.randrange(8)
    rewrite(path, [(f.number, bytes(payload) if f is frame else f.payload) for f in found])
    return f"record {frame.number} is not the one that was logged"


def dropped_record(log: Path) -> str:
    path, found = any_segment(log, 3)
    frame = random.choice(found[1:-1])
    rewrite(path, [(f.number, f.payload) for f in found if f is not frame])
    return f"records {frame.number} to {frame.number} are missing"


def dropped_and_numbered_anew(log: Path) -> str:
    path, found = any_segment(log, 3)
    place = random.randrange(1, len(found) - 1)
    kept = found[:place] + found[place + 1 :]
    rewrite(path, [(f.number, one.payload) for f, one in zip(found, kept, strict=False)])
    return f"record {found[place].number} is not the one that was logged"


def reordered(log: Path) -> str:
    path, found = any_segment(log)
    place = random.randrange(len(found) - 1)
    payloads = [f.payload for f in found]
    payloads[place : place + 2] = payloads[place + 1], payloads[place]
    rewrite(path, [(f.number, payload) for f, payload in zip(found, payloads, strict=True)])
    return f"record {found[place].number} is not the one that was logged"


def truncated(log: Path) -> str:
    path, found = any_segment(log)
    frame = random.choice(found)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: frame.offset] + bytes(size - frame.offset))
    for _, later in segments(log / "segments"):
        if later > path:
            later.unlink()
    return f"the log ends at record {frame.number}, but"


def swapped_segments(log: Path) -> str:
    (_, one), (_, other) = random.sample(segments(log / "segments"), 2)
    spare = one.with_suffix(".spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)
    return min(one.name, other.name)


def missing_segment(log: Path) -> str:
    found = [*segments(log / "segments"), (RECORDS, log)]
    (first, path), (following, _) = random.choice(list(itertools.pairwise(found)))
    path.unlink()
    return f"ends at record {first}" if following == RECORDS else f"records {first} to {following - 1} are missing"


def changed_tile(log: Path) -> str:
    tile = random.choice([path for path in (log / "tile").rglob("*") if path.is_file()])
    data = bytearray(tile.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    tile.write_bytes(data)
    return tile.relative_to(log).as_posix()


def record_and_tiles(log: Path) -> str:
    flipped_bit_with_its_checksum(log)
    forged = Tree(log)
    shutil.rmtree(log / "tile")
    for first, path in segments(log / "segments"):
        for frame in frames_of(path, first):
            forged.append(leaf_hash(frame.payload))
    forged.publish()
    return f"the first {RECORDS} records do not give the root"


def changed_checkpoint(log: Path) -> str:
    data = bytearray((log / "checkpoint").read_bytes())
    data[random.randrange(len(data) - 1)] ^= 1
    (log / "checkpoint").write_bytes(data)
    return "checkpoint"


KINDS = (
    flipped_bit,
    flipped_bit_with_its_checksum,
    dropped_record,
    dropped_and_numbered_anew,
    reordered,
    truncated,
    swapped_segments,
    missing_segment,
    changed_tile,
    record_and_tiles,
    changed_checkpoint,
)


def found_in(log: Path, since: str = "") -> str:
    report = verify_directory(log, (log / "log.key.pub").read_text(), since)
    assert report.done
    return "\n".join(report.problems)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return make_log(tmp_path_factory.mktemp("intact"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_found_and_its_place_named(intact, tmp_path, kind):
    for trial in range(TRIALS):
        log = shutil.copytree(intact, tmp_path / str(trial))
        place = kind(log)
        said = found_in(log)
        assert place in said, f"{place!r} is not named in: {said}"


def test_a_log_that_was_rolled_back_as_a_whole_is_found_by_a_checkpoint_that_was_kept(tmp_path):
    log = make_log(tmp_path, 500)
    older = shutil.copytree(log, tmp_path / "older")
    kept = (make_log(tmp_path, 500) / "checkpoint").read_text()
    assert found_in(log, kept) == ""
    assert found_in(older) == ""
    assert "it was rolled back" in found_in(older, kept)


def test_a_forked_history_that_two_readers_were_shown_is_found_when_they_compare(tmp_path):
    log = make_log(tmp_path, 300)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(log, other / "log")
    shutil.copy(tmp_path / "log.key", other / "log.key")
    shown_to_one = (make_log(tmp_path, 200) / "checkpoint").read_text()
    shown_to_other = make_log(other, 300)
    assert found_in(log) == found_in(shown_to_other) == ""
    assert "the first 500 records are not those of the checkpoint that was kept" in found_in(
        shown_to_other, shown_to_one
    )


def main() -> None:
    trials = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        intact = make_log(Path(name))
        for kind in KINDS:
            found = named = 0
            for _ in range(trials):
                log = Path(name) / "changed"
                shutil.copytree(intact, log)
                place = kind(log)
                said = found_in(log)
                found, named = found + bool(said), named + (place in said)
                shutil.rmtree(log)
            print(
                f"{kind.__name__.replace('_', ' '):<32}{trials:>6} tried {found:>6} found {named:>6} named", flush=True
            )
            assert found == named == trials


if __name__ == "__main__":
    main()
