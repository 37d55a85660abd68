#!/usr/bin/env python3
"""Checks a bundle or receipt of a moltbot audit log. One file, and needs nothing but the package `cryptography`.

    python check_bundle.py BUNDLE --key VERIFIER_KEY [--earlier CHECKPOINT] [--witness KEY …]
                           [--expect AUDIT_ID …] [--json]

It says for each record that it stands at its place in the log that the key's owner has signed, unchanged. It asks
nobody: have the key, and any earlier checkpoint, from somebody other than the bundle's sender.

Exit codes: 0 all is proven, 1 something is not, 2 the bundle, a key or an argument cannot be read.

Source: C2SP tlog-checkpoint, signed-note, tlog-cosignature; RFC 9162 section 2.1; RFC 8032; protobuf encoding.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import shutil
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain
from typing import IO, TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT = "moltbot-audit-bundle/1"
PROVEN, NOT_PROVEN, UNREADABLE = 0, 1, 2
_MOST_SIZE = 1 << 62
_MOST_LINE_BYTES = 1 << 21
_LOG, _COSIGNATURE = 1, 4
_KEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})")


class Unreadable(Exception):
    """What was given cannot be read."""


class NotProven(Exception):
    """What was given does not hold; the message says where."""


@dataclass(frozen=True)
class Key:
    """A C2SP verifier key: `<name>+<key id>+<base64 of type and key>`."""

    name: str
    id: bytes
    kind: int
    public: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read a verifier key."""
        match = _KEY.fullmatch(text.strip())
        if match is None:
            raise Unreadable("a verifier key reads <name>+<8 hexadecimal digits>+<base64>")
        try:
            raw = base64.b64decode(match[3], validate=True)
            public = Ed25519PublicKey.from_public_bytes(raw[1:])
        except ValueError:
            raise Unreadable(f"the key of {match[1]} is no Ed25519 key") from None
        found = hashlib.sha256(match[1].encode() + b"\n" + raw).digest()[:4]
        if raw[0] not in (_LOG, _COSIGNATURE) or found.hex() != match[2]:
            raise Unreadable(f"the key of {match[1]} has another id than it says, or is of a kind not known here")
        return cls(match[1], found, raw[0], public)


@dataclass(frozen=True)
class Head:
    """A checkpoint whose signature holds."""

    origin: str
    size: int
    root: bytes
    body: str
    witnesses: tuple[tuple[str, int], ...] = ()
    """Names of witnesses whose cosignatures hold, and when they signed, in seconds since the epoch."""


def read_note(note: str, key: Key, witnesses: Sequence[Key] = (), sm2: Sm2Key | None = None) -> Head:
    """Check a checkpoint: the log's signature must hold, the SM2 one and the cosignature of each witness if named."""
    body, blank, signatures = note.partition("\n\n")
    body += "\n"
    lines = body.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError):
        raise Unreadable("the checkpoint does not read origin, size, root") from None
    if not blank or len(root) != 32 or not 0 <= size < _MOST_SIZE or str(size) != lines[1]:
        raise Unreadable("the checkpoint does not read origin, size, root")
    if origin != key.name:
        raise NotProven(f"the checkpoint is of {origin}, the key of {key.name}")
    if not any(_signs(key, raw, body) for raw in _signatures(signatures, key)):
        raise NotProven(f"the checkpoint carries no valid signature of {key.name}")
    if sm2 is not None and not any(sm2.signs(raw, body.encode()) for raw in _signatures(signatures, sm2)):
        raise NotProven(f"the checkpoint carries no valid SM2 signature of {sm2.name}")
    seen: list[tuple[str, int]] = []
    for witness in witnesses:
        times = [raw for raw in _signatures(signatures, witness) if _cosigns(witness, raw, body)]
        if not times:
            raise NotProven(f"the checkpoint carries no valid cosignature of the witness {witness.name}")
        seen.append((witness.name, max(int.from_bytes(raw[:8], "big") for raw in times)))
    return Head(origin, size, root, body, tuple(seen))


def _signatures(text: str, key: Key | Sm2Key) -> Iterator[bytes]:
    for line in text.splitlines():
        parts = line.split(" ")
        if len(parts) == 3 and parts[:2] == ["\N{EM DASH}", key.name]:
            try:
                raw = base64.b64decode(parts[2], validate=True)
            except ValueError:
                continue
            if raw[:4] == key.id:
                yield raw[4:]


def _signs(key: Key, signature: bytes, body: str) -> bool:
    return key.kind == _LOG and _valid(key, signature, body.encode())


def _cosigns(key: Key, signature: bytes, body: str) -> bool:
    time_s = int.from_bytes(signature[:8], "big")
    return key.kind == _COSIGNATURE and _valid(key, signature[8:], f"cosignature/v1\ntime {time_s}\n{body}".encode())


def _valid(key: Key, signature: bytes, message: bytes) -> bool:
    try:
        key.public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


# SM2 over the recommended curve of GB/T 32918.5-2017, to check signatures alone: nothing secret is computed with.
_P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
_N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_A = _P - 3
_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
_G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
_SM2, _IDENTITY = b"\xffsm2-sm3", b"1234567812345678"


@dataclass(frozen=True)
class Sm2Key:
    """The key of a co-signature with SM2 (GB/T 32918.2-2016) over SM3."""

    name: str
    id: bytes
    point: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> Sm2Key:
        """Read a verifier key whose type is 0xff, `sm2-sm3`."""
        match = _KEY.fullmatch(text.strip())
        raw = base64.b64decode(match[3]) if match else b""
        point = int.from_bytes(raw[-64:-32], "big"), int.from_bytes(raw[-32:], "big")
        on_curve = (point[1] ** 2 - point[0] ** 3 - _A * point[0] - _B) % _P == 0 and max(point) < _P
        if match is None or raw[:-64] != _SM2 + b"\x04" or not on_curve:
            raise Unreadable(
                "an SM2 verifier key reads <name>+<8 hexadecimal digits>+<base64 of type, sm2-sm3 and point>"
            )
        found = hashlib.sha256(match[1].encode() + b"\n" + raw).digest()[:4]
        if found.hex() != match[2]:
            raise Unreadable(f"the key of {match[1]} has another id than it says")
        return cls(match[1], found, point)

    def signs(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature (r and s, 32 bytes each) is of this key."""
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        t = (r + s) % _N
        if len(signature) != 64 or not 0 < r < _N or not 0 < s < _N or t == 0:
            return False
        numbers = (_A, _B, *_G, *self.point)
        identity = (
            (8 * len(_IDENTITY)).to_bytes(2, "big") + _IDENTITY + b"".join(n.to_bytes(32, "big") for n in numbers)
        )
        found = _added(_times(s, _G), _times(t, self.point))
        return found is not None and (int.from_bytes(_sm3(_sm3(identity) + message), "big") + found[0]) % _N == r


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


def _added(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    if one is None or other is None:
        return one or other
    (x, y), (u, v) = one, other
    if x == u and (y + v) % _P == 0:
        return None
    slope = (3 * x * x + _A) * pow(2 * y, -1, _P) if one == other else (v - y) * pow(u - x, -1, _P)
    w = (slope * slope - x - u) % _P
    return w, (slope * (x - w) - y) % _P


def _times(factor: int, point: tuple[int, int] | None) -> tuple[int, int] | None:
    found: tuple[int, int] | None = None
    while factor:
        if factor & 1:
            found = _added(found, point)
        point, factor = _added(point, point), factor >> 1
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass
class Items:
    """The lines behind the header, one after the other."""

    lines: Iterator[dict[str, Any]]
    peeked: dict[str, Any] | None = field(default=None)

    def peek(self) -> dict[str, Any]:
        """The next line."""
        if self.peeked is None:
            self.peeked = next(self.lines, None)
        if self.peeked is None:
            raise NotProven("the bundle ends before its tree does")
        return self.peeked

    def take(self) -> dict[str, Any]:
        """The next line, which is then gone."""
        line = self.peek()
        self.peeked = None
        return line


def records(items: Items, head: Head) -> Iterator[tuple[int, bytes]]:
    """The records of a bundle in order; ends only if all give the root that was signed.

    What is yielded is proven only when the iteration has ended.
    """
    root = yield from _part(items, 0, head.size) if head.size else _empty()
    if root != head.root:
        raise NotProven(
            "the records do not give the root that the checkpoint signs: one was changed, moved or left out"
        )
    if items.peeked is not None or next(items.lines, None) is not None:
        raise NotProven("something stands behind the end of the tree")


def _empty() -> Iterator[tuple[int, bytes]]:
    yield from ()
    return hashlib.sha256(b"").digest()


def _part(items: Items, first: int, count: int) -> Iterator[tuple[int, bytes]]:
    line = items.peek()
    if "hash" in line and (_number(line, "first"), _number(line, "count")) == (first, count):
        found = _bytes(items.take(), "hash")
        if len(found) != 32:
            raise Unreadable(f"the hash of leaves {first} to {first + count - 1} has {len(found)} bytes")
        return found
    if count == 1:
        if "record" not in line or _number(line, "sequence") != first:
            raise NotProven(f"record {first} or its hash is missing, or stands elsewhere")
        record = _bytes(items.take(), "record")
        yield first, record
        return hashlib.sha256(b"\x00" + record).digest()
    left = 1 << ((count - 1).bit_length() - 1)
    one = yield from _part(items, first, left)
    other = yield from _part(items, first + left, count - left)
    return _node(one, other)


def extends(first: int, first_root: bytes, head: Head, proof: Sequence[bytes]) -> bool:
    """Whether a log extends an earlier one (RFC 9162 section 2.1.4.2)."""
    if first == head.size:
        return not proof and first_root == head.root
    if first == 0:
        return not proof and first_root == hashlib.sha256(b"").digest()
    if not 0 < first < head.size or not proof:
        return False
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    fn, sn = first - 1, head.size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = _node(sibling, fr), _node(sibling, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = _node(sr, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == head.root


def _bytes(line: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(line[name], validate=True)
    except (KeyError, ValueError, TypeError):
        raise Unreadable(f"{name} is not base64") from None


def _number(line: dict[str, Any], name: str) -> int:
    value = line.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


# Field numbers of moltbot.audit.v1.AuditEvent.
_FIELDS = {
    1: "event_id", 2: "time", 3: "type", 4: "outcome", 5: "tenant", 6: "subject", 7: "action", 8: "object", 9: "reason",
    10: "ingress", 11: "request_id", 12: "trace_id", 13: "span_id", 14: "parent_event_id", 15: "service",
    16: "instance", 17: "model", 18: "prompt_tokens", 19: "completion_tokens", 20: "duration_us",
    21: "input_commitment", 22: "output_commitment", 23: "mark_id", 25: "peer", 26: "http_status",
    28: "reasoning_commitment", 29: "output_bytes", 30: "reasoning_bytes",
}  # fmt: skip
_TEXTS = frozenset({5, 6, 7, 8, 9, 11, 15, 16, 17, 25})
_WORDS = {
    "type": ("", "request", "model call", "tool call", "route", "administration", "audit read", "watermark key",
             "lifecycle", "gap"),
    "outcome": ("", "success", "refused", "failed", "cancelled"),
    "ingress": ("", "local", "remote", "internal", "outbound"),
}  # fmt: skip
_ATTRIBUTES, _PRODUCER = 24, 27


def event(record: bytes) -> dict[str, Any]:
    """The fields of a record, by name; those that a newer version added by `field_N`."""
    found: dict[str, Any] = {}
    for number, value in _wire(record):
        name = _FIELDS.get(number, f"field_{number}")
        if number == _ATTRIBUTES and isinstance(value, bytes):
            pair = dict(_wire(value))
            found.setdefault("attributes", {})[_said(pair.get(1, b""))] = _said(pair.get(2, b""))
        elif number == _PRODUCER and isinstance(value, bytes):
            pair = dict(_wire(value))
            producer = pair.get(1, b"")
            found["producer"] = {
                "id": producer.hex() if isinstance(producer, bytes) else "",
                "epoch": pair.get(2, 0),
                "counter": pair.get(3, 0),
            }
        elif isinstance(value, bytes):
            found[name] = _said(value) if number in _TEXTS else _id(name, value)
        else:
            words = _WORDS.get(name, ())
            found[name] = words[value] if value < len(words) else value
    if isinstance(found.get("time"), int):
        seconds, rest = divmod(found["time"], 1_000_000_000)
        when = datetime.fromtimestamp(min(seconds, 253_402_300_799), timezone.utc)
        found["time"] = f"{when:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    return found


def _said(value: int | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _id(name: str, value: bytes) -> str:
    return str(uuid.UUID(bytes=value)) if name.endswith("event_id") and len(value) == 16 else value.hex()


def _wire(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message."""
    place = 0
    try:
        while place < len(data):
            tag, place = _varint(data, place)
            if tag & 7 == 0:
                value, place = _varint(data, place)
                yield tag >> 3, value
                continue
            if tag & 7 == 2:
                length, place = _varint(data, place)
            else:
                length = {1: 8, 5: 4}[tag & 7]
            yield tag >> 3, _taken(data, place, length)
            place += length
    except (IndexError, KeyError):
        raise Unreadable("a record is no serialised AuditEvent") from None


def _taken(data: bytes, place: int, length: int) -> bytes:
    part = data[place : place + length]
    if len(part) != length:
        raise IndexError
    return part


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise IndexError


def commits(key: bytes, data: bytes, commitment: str) -> bool:
    """Whether a commitment (hexadecimal, as `event` shows it) is to some data, by the key disclosed with them."""
    return hmac.compare_digest(hmac.digest(key, data, "sha256").hex(), commitment)


def read_lines(lines: Iterable[bytes]) -> tuple[dict[str, Any], Items]:
    """The header of a bundle and what follows it."""

    def parsed() -> Iterator[dict[str, Any]]:
        for line in _gathered(lines):
            if len(line) > _MOST_LINE_BYTES:
                raise Unreadable("a line of the bundle is too long")
            if line.strip():
                try:
                    tree = json.loads(line)
                except (ValueError, RecursionError):
                    raise Unreadable("a line of the bundle is not JSON") from None
                if not isinstance(tree, dict):
                    raise Unreadable("a line of the bundle is not a JSON object")
                yield tree

    found = parsed()
    header = next(found, None)
    if not header or header.get("format") != FORMAT or not isinstance(header.get("checkpoint"), str):
        raise Unreadable(f"this is not a bundle of the format {FORMAT}")
    items = header.pop("items", None)
    if items is not None and not (isinstance(items, list) and all(isinstance(item, dict) for item in items)):
        raise Unreadable("items are not a list of JSON objects")
    return header, Items(chain(items or (), found))


def _gathered(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines; of a receipt that a tool has indented, all of them as one."""
    rest = iter(lines)
    first = next(rest, b"")
    if first.strip() != b"{":
        yield first
        yield from rest
        return
    whole = [first]
    size = 0
    for line in rest:
        whole.append(line)
        size += len(line)
        if size > _MOST_LINE_BYTES:
            break
    yield b"".join(whole)


def check_earlier(header: dict[str, Any], head: Head, note: str, key: Key) -> None:
    """Check that the bundle's log extends the one of an earlier checkpoint."""
    before = read_note(note, key)
    told = header.get("earlier")
    size = before.size if before.size in (0, head.size) else _number(told, "size") if isinstance(told, dict) else -1
    if before.size > head.size:
        raise NotProven(
            f"the earlier checkpoint has {before.size} records, this one {head.size}: the log was rolled back"
        )
    if size != before.size:
        raise NotProven(
            f"the bundle has no proof that it extends a log of {before.size} records; export it with --since"
        )
    hashes = told.get("hashes", []) if isinstance(told, dict) and _number(told, "size") == before.size else []
    proof = [_bytes({"hash": one}, "hash") for one in hashes]
    if not extends(before.size, before.root, head, proof):
        raise NotProven(f"this log does not extend the earlier one of {before.size} records: its history was forked")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(description="Checks a bundle or receipt of a moltbot audit log.")
    parser.add_argument("bundle", help="the file; - reads standard input")
    parser.add_argument("--key", required=True, metavar="KEY", help="the log's verifier key, or a file that holds it")
    parser.add_argument("--earlier", metavar="FILE", help="a checkpoint of this log that was kept; it must be extended")
    parser.add_argument(
        "--witness", action="append", default=[], metavar="KEY", help="a witness that must have cosigned"
    )
    parser.add_argument(
        "--expect", action="append", default=[], metavar="ID", help="the id of an event that must be among the proven"
    )
    parser.add_argument("--sm2-key", metavar="KEY", help="the key of an SM2 signature that must stand there too")
    parser.add_argument("--time-stamp", metavar="FILE", help="write the time stamp there, what it is of to FILE.data")
    parser.add_argument("--json", action="store_true", help="one JSON object a record, then the result")
    given = parser.parse_args(arguments)
    try:
        key, witnesses = Key.parse(_text_of(given.key)), [Key.parse(_text_of(text)) for text in given.witness]
        with _seekable(given.bundle) as stream:
            earlier = _text_of(given.earlier) if given.earlier else ""
            sm2 = Sm2Key.parse(given.sm2_key) if given.sm2_key else None
            head, count = check(stream, key, witnesses, earlier, sm2, given.expect)
            stream.seek(0)  # nothing is shown before all is proven
            header, items = read_lines(_lines(stream))
            if given.time_stamp:
                write_time_stamp(header, head, given.time_stamp)
            for sequence, record in records(items, head):
                _show(sequence, event(record), as_json=given.json)
    except (Unreadable, OSError, UnicodeDecodeError) as error:
        print(f"cannot be read: {error}", file=sys.stderr)
        return UNREADABLE
    except NotProven as error:
        print(f"NOT PROVEN: {error}", file=sys.stderr)
        return NOT_PROVEN
    _conclude(head, count, earlier=bool(given.earlier), as_json=given.json)
    return PROVEN


def check(
    stream: IO[bytes],
    key: Key,
    witnesses: Sequence[Key] = (),
    earlier: str = "",
    sm2: Sm2Key | None = None,
    expect: Sequence[str] = (),
) -> tuple[Head, int]:
    """Check a bundle or receipt.

    Args:
        stream: Of the file.
        key: The log's.
        witnesses: Who must have cosigned.
        earlier: A checkpoint that was kept; empty if there is none.
        sm2: The key of the SM2 signature that the checkpoint must carry too, if any.
        expect: Ids of events (UUIDs as text) that must be among the proven records.

    Returns:
        The checkpoint, and how many records are proven.

    Raises:
        NotProven: Something does not hold, or no record is told; the message says what.
        Unreadable: It is no bundle, or an expected id is no UUID.
    """
    missing = {_event_id(text) for text in expect}
    header, items = read_lines(_lines(stream))
    head = read_note(header["checkpoint"], key, witnesses, sm2)
    if earlier:
        check_earlier(header, head, earlier, key)
    count = 0
    for _, record in records(items, head):
        count += 1
        if missing:
            missing.discard(event(record).get("event_id", ""))
    if not count:
        raise NotProven("the bundle tells no record")
    if missing:
        raise NotProven(f"the bundle does not tell the event {min(missing)}")
    return head, count


def _event_id(text: str) -> str:
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise Unreadable(f"{_printable(text)} is no id of an event, which is a UUID") from None


def write_time_stamp(header: dict[str, Any], head: Head, name: str) -> None:
    """Write the time stamp (RFC 3161) of a checkpoint out, for `openssl ts -verify`."""
    if "time_stamp" not in header:
        raise NotProven("the bundle carries no time stamp")
    with open(name, "wb") as stamp, open(f"{name}.data", "wb") as data:
        stamp.write(_bytes(header, "time_stamp"))
        data.write(head.body.encode())
    print(f"check it with: openssl ts -verify -in {name} -data {name}.data -CAfile CERTIFICATES", file=sys.stderr)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.readline(_MOST_LINE_BYTES + 2), b"")


def _seekable(name: str) -> IO[bytes]:
    if name != "-":
        return open(name, "rb")
    spool: IO[bytes] = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.seek(0)
    return spool


def _text_of(text: str) -> str:
    if _KEY.fullmatch(text.strip()):
        return text
    with open(text, encoding="utf-8") as stream:
        return stream.read(4096)


def _show(sequence: int, found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"sequence": sequence, **found}, ensure_ascii=False))
        return
    names = ("time", "type", "outcome", "tenant", "subject", "action", "object", "reason")
    print(f"{sequence:>10}  " + "  ".join(_printable(str(found[name])) for name in names if found.get(name)))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _conclude(head: Head, count: int, *, earlier: bool, as_json: bool) -> None:
    if as_json:
        seen = [{"name": name, "time_s": time_s} for name, time_s in head.witnesses]
        proven = {"proven": count, "origin": head.origin, "size": head.size, "root": head.root.hex(), "witnesses": seen}
        print(json.dumps(proven))
        return
    print(f"PROVEN: {count} records stand unchanged in the log {head.origin} of {head.size} records")
    if earlier:
        print("PROVEN: this log extends the earlier checkpoint")
    for name, time_s in head.witnesses:
        print(f"PROVEN: {name} saw this log at {datetime.fromtimestamp(time_s, timezone.utc):%Y-%m-%d %H:%M:%S} UTC")


if __name__ == "__main__":
    sys.exit(main())
