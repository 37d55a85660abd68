"""Bundles hold without the mesh, and nothing in them can be changed, moved, added or left out."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from moltbot.audit.v1 import audit_pb2

from moltbot_audit import check_bundle, merkle
from moltbot_audit.bundle import Leaf, Subtree, walk
from moltbot_audit.check_bundle import Key, NotProven, Unreadable, check, event
from moltbot_audit.checkpoint import Signer
from moltbot_audit.export import bundle, receipt
from moltbot_mesh.errors import FailedPrecondition, OutOfRange


def settled(ledger, size):
    limit = time.monotonic() + 10
    while ledger.checkpoint()[1].size < size:
        assert time.monotonic() < limit
        time.sleep(0.01)
    return ledger


@pytest.fixture
def ledger(open_ledger, record):
    """A log of 100 records in several segments."""
    log = open_ledger(segment_bytes=1 << 12)
    log.append([record(object=f"model-{n}") for n in range(100)])
    return settled(log, 100)


def written(ledger, sequences, **given):
    return b"".join(bundle(ledger, sequences, "a test", **given))


def checked(data, ledger, **given):
    return check(io.BytesIO(data), Key.parse(ledger.verifier_key), **given)


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(0, n - 1))))))
def test_leaves_and_subtrees_give_the_root_whatever_is_told(case):
    size, told = case
    told = sorted(told) if size else []
    leaves = [merkle.leaf_hash(bytes([n % 251, n // 251])) for n in range(size)]

    def node(level, index):
        if level == 0:
            return leaves[index]
        return merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    items = list(walk(told, size, node))
    assert [item.sequence for item in items if isinstance(item, Leaf)] == told
    covered = sum(item.count if isinstance(item, Subtree) else 1 for item in items)
    assert covered == size
    assert len(items) <= max(1, len(told) * (size.bit_length() + 1))


def test_a_range_across_segments_is_proven(ledger):
    head, count = checked(written(ledger, range(7, 93)), ledger)
    assert (head.size, count) == (100, 86)


def test_single_records_are_proven_together(ledger):
    assert checked(written(ledger, [0, 41, 42, 99]), ledger)[1] == 4


def test_a_receipt_is_a_bundle_of_one_record(ledger):
    found = json.loads(receipt(ledger, 41))
    assert checked(receipt(ledger, 41), ledger)[1] == 1
    assert checked(json.dumps(found, indent=2).encode(), ledger)[1] == 1
    (told,) = [item for item in found["items"] if "record" in item]
    assert told["sequence"] == 41
    assert event(base64.b64decode(told["record"]))["object"] == "model-41"


def changed_record(lines):
    place = next(n for n, line in enumerate(lines) if "record" in line)
    record = bytearray(base64.b64decode(lines[place]["record"]))
    record[-1] ^= 1
    lines[place]["record"] = base64.b64encode(record).decode()


def swapped_records(lines):
    first, second = [line for line in lines if "record" in line][:2]
    first["record"], second["record"] = second["record"], first["record"]


def left_out(lines):
    del lines[next(n for n, line in enumerate(lines) if "record" in line)]


def numbered_otherwise(lines):
    next(line for line in lines if "record" in line)["sequence"] += 1


def told_twice(lines):
    lines.append(dict(next(line for line in lines if "record" in line)))


def changed_hash(lines):
    line = next(line for line in lines if "hash" in line)
    line["hash"] = base64.b64encode(bytes(32)).decode()


def cut_off(lines):
    del lines[-1]


def another_size(lines):
    lines[0]["checkpoint"] = lines[0]["checkpoint"].replace("\n100\n", "\n101\n")


@pytest.mark.parametrize(
    "harm",
    [changed_record, swapped_records, left_out, numbered_otherwise, told_twice, changed_hash, cut_off, another_size],
)
def test_what_was_tampered_with_is_not_proven(ledger, harm):
    lines = [json.loads(line) for line in written(ledger, [3, 4, 60]).splitlines()]
    harm(lines)
    with pytest.raises(NotProven):
        checked(b"\n".join(json.dumps(line).encode() for line in lines), ledger)


def test_a_checkpoint_of_another_key_is_not_proven(ledger):
    other = Signer(Ed25519PrivateKey.generate(), "test/log")
    with pytest.raises(NotProven, match="no valid signature"):
        check(io.BytesIO(written(ledger, [1])), Key.parse(other.verifier_key))


def test_every_byte_counts(ledger):
    data = written(ledger, [50])
    for place in range(0, len(data), 7):
        harmed = bytearray(data)
        harmed[place] ^= 0x10
        try:
            checked(bytes(harmed), ledger)
        except (NotProven, Unreadable):
            continue
        before, after = (json.loads(text.splitlines()[0]) for text in (data, harmed))
        # What proves nothing may say anything.
        assert {key for key in before | after if before.get(key) != after.get(key)} <= {
            *("selection", "verifier_key"),
            *(before.keys() ^ after.keys()),
        }


def test_a_log_that_grew_extends_the_checkpoint_that_was_kept(open_ledger, record):
    log = open_ledger()
    log.append([record() for _ in range(30)])
    kept = settled(log, 30).checkpoint()[0]
    log.append([record() for _ in range(40)])
    settled(log, 70)
    checked(written(log, [69], since=30), log, earlier=kept)
    with pytest.raises(NotProven, match="--since"):
        checked(written(log, [69]), log, earlier=kept)


def test_a_forked_history_is_found(open_ledger, record, tmp_path):
    log = open_ledger()
    log.append([record() for _ in range(70)])
    settled(log, 70)
    other = Signer.load(tmp_path / "log.key", "test/log").sign(30, bytes(32))
    with pytest.raises(NotProven, match="forked"):
        checked(written(log, [69], since=30), log, earlier=other)


def test_a_log_that_was_rolled_back_is_found(ledger, tmp_path):
    later = Signer.load(tmp_path / "log.key", "test/log").sign(200, bytes(32))
    with pytest.raises(NotProven, match="rolled back"):
        checked(written(ledger, [1]), ledger, earlier=later)


def cosigned(note, key, name, time_s=1_700_000_000):
    public = key.public_key().public_bytes_raw()
    key_id = merkle.sha256(name.encode() + b"\n\x04" + public).digest()[:4]
    body = note.partition("\n\n")[0] + "\n"
    signature = key.sign(f"cosignature/v1\ntime {time_s}\n{body}".encode())
    line = base64.b64encode(key_id + time_s.to_bytes(8, "big") + signature).decode()
    vkey = base64.b64encode(bytes([4]) + public).decode()
    return f"{note}\N{EM DASH} {name} {line}\n", f"{name}+{key_id.hex()}+{vkey}"


def test_a_witness_must_have_cosigned(ledger):
    key = Ed25519PrivateKey.generate()
    lines = written(ledger, [5]).split(b"\n", 1)
    header = json.loads(lines[0])
    header["checkpoint"], vkey = cosigned(header["checkpoint"], key, "witness.example/w1")
    data = json.dumps(header).encode() + b"\n" + lines[1]
    head, _ = checked(data, ledger, witnesses=[Key.parse(vkey)])
    assert head.witnesses == (("witness.example/w1", 1_700_000_000),)
    with pytest.raises(NotProven, match="w1"):
        checked(written(ledger, [5]), ledger, witnesses=[Key.parse(vkey)])


def test_records_that_no_checkpoint_covers_wait(ledger):
    with pytest.raises(FailedPrecondition):
        written(ledger, [100])


def test_expired_records_cannot_be_told(open_ledger, record):
    log = open_ledger(segment_bytes=1 << 12)
    log.append([record() for _ in range(600)])
    settled(log, 600)
    gone = log.expire(time.time_ns() + 10**12)
    assert gone > 0
    with pytest.raises(OutOfRange, match=str(gone)):
        written(log, range(600))
    assert checked(written(log, range(gone, 600)), log)[1] == 600 - gone


def test_fields_are_read_as_protobuf_reads_them(event):
    sent = event(
        trace_id=b"t" * 16,
        prompt_tokens=300,
        attributes={"rule": "default", "größe": "1"},
        producer=audit_pb2.Producer(producer_id=b"p" * 16, epoch=3, counter=1 << 40),
    )
    found = check_bundle.event(sent.SerializeToString())
    assert found["tenant"] == "acme"
    assert found["type"] == "request"
    assert found["trace_id"] == (b"t" * 16).hex()
    assert found["prompt_tokens"] == 300
    assert found["attributes"] == {"rule": "default", "größe": "1"}
    assert found["producer"] == {"id": (b"p" * 16).hex(), "epoch": 3, "counter": 1 << 40}


def test_every_field_of_an_event_has_its_name():
    names = {field.number: field.name for field in audit_pb2.AuditEvent.DESCRIPTOR.fields}
    assert names == {**check_bundle._FIELDS, 2: "time_unix_ns", 24: "attributes", 27: "producer"}


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reading_of_a_record(data):
    with contextlib.suppress(Unreadable):
        check_bundle.event(data)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"\xff", b'{"format":"moltbot-audit-bundle/1"}', b'{"format":"moltbot-audit-bundle/2"}']
)
def test_what_is_no_bundle_is_said_to_be_none(ledger, text):
    with pytest.raises(Unreadable):
        checked(text, ledger)


def test_the_program_needs_nothing_but_cryptography():
    tree = ast.parse(Path(check_bundle.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign == {"cryptography"}


def one_subtree(ledger):
    """What tells of a log that it exists, and of no record anything."""
    header, _ = written(ledger, [5]).split(b"\n", 1)
    root = checked(written(ledger, [5]), ledger)[0].root
    item = {"first": 0, "count": 100, "hash": base64.b64encode(root).decode()}
    return header + b"\n" + json.dumps(item).encode() + b"\n"


def test_a_bundle_that_tells_no_record_proves_nothing(ledger, tmp_path):
    file = tmp_path / "bundle"
    file.write_bytes(one_subtree(ledger))
    with pytest.raises(NotProven, match="tells no record"):
        checked(file.read_bytes(), ledger)
    assert run(file, "--key", ledger.verifier_key).returncode == 1


def test_an_event_that_is_expected_must_be_told(ledger):
    ids = [check_bundle.event(ledger.at(n).payload)["event_id"] for n in range(10, 14)]
    data = written(ledger, range(10, 13))
    assert checked(data, ledger, expect=[ids[0], ids[2].upper()])[1] == 3
    with pytest.raises(NotProven, match=ids[3]):
        checked(data, ledger, expect=[ids[0], ids[3]])
    with pytest.raises(Unreadable, match="UUID"):
        checked(data, ledger, expect=["10"])


def test_the_program_refuses_a_receipt_of_another_event(ledger, tmp_path):
    own, other = (check_bundle.event(ledger.at(n).payload)["event_id"] for n in (41, 42))
    file = tmp_path / "receipt"
    file.write_bytes(receipt(ledger, 41))
    assert run(file, "--key", ledger.verifier_key, "--expect", own).returncode == 0
    done = run(file, "--key", ledger.verifier_key, "--expect", own, "--expect", other)
    assert (done.returncode, done.stdout) == (1, b"")
    assert other in done.stderr.decode()


def run(*arguments, stdin=b""):
    command = [sys.executable, "-I", check_bundle.__file__, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def test_the_program_says_what_is_proven(ledger, tmp_path):
    file = tmp_path / "bundle"
    file.write_bytes(written(ledger, range(10, 13)))
    done = run(file, "--key", ledger.verifier_key)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode().splitlines()
    assert "model-10" in said[0]
    assert "PROVEN: 3 records" in said[-1]
    assert run("-", "--key", ledger.verifier_key, "--json", stdin=file.read_bytes()).returncode == 0


def test_the_program_shows_nothing_that_is_not_proven(ledger, tmp_path):
    file = tmp_path / "bundle"
    file.write_bytes(written(ledger, range(10, 13))[:-60])
    done = run(file, "--key", ledger.verifier_key)
    assert done.returncode in (1, 2)
    assert not done.stdout


@pytest.mark.parametrize("data", [b"{\n", b"{\n" + b"[" * 100_000, b"{\n" + b" \n" * (2 << 20)])
def test_a_document_over_many_lines_that_is_no_receipt_is_refused(ledger, data):
    with pytest.raises(check_bundle.Unreadable):
        checked(data, ledger)
