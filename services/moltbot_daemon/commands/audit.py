"""`audit verify`, `audit export`, `audit verifier`: the log checked, and taken to others who check it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc

from moltbot_audit import check_bundle
from moltbot_audit.checkpoint import parse
from moltbot_audit.verify import CHECKPOINT_FILE, KEY_FILE, verify_steps
from moltbot_daemon.commands.local import mesh_channel
from moltbot_daemon.commands.shell import FAILED, FOUND_DAMAGE, OK, Shell, tell
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import IO

_VERIFIER_KEY = re.compile(r"[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+={0,2}")
_RANGE = re.compile(r"(\d{1,18}):(\d{1,18})?")
_EXPORT_S = 3600.0


def verify(shell: Shell) -> int:
    """Check the whole audit log, with or without the daemon, or a bundle that was exported from one."""
    key = (shell.args.key or "").strip()
    if key and not _VERIFIER_KEY.fullmatch(key):
        raise InvalidArgument("--key: not a verifier key; it reads <name>+<id>+<base64>, as in log.key.pub")
    directory = shell.args.path or shell.places.data_dir / "audit" / "log"
    since = shell.args.since.read_text("utf-8") if shell.args.since else ""
    check = _verify_bundle if directory.is_file() else _verify_log
    if shell.args.expect and check is _verify_log:
        raise InvalidArgument("--expect: name the bundle or receipt that must hold these events")
    return check(shell, directory, key, since)


def _verify_log(shell: Shell, directory: Path, key: str, since: str) -> int:
    if not any((directory / name).exists() for name in (CHECKPOINT_FILE, KEY_FILE, "segments")):
        raise InvalidArgument(f"{directory}: no audit log; name its directory, or the right --data-dir")
    report = None
    for report in verify_steps(directory, key, since):
        if sys.stderr.isatty():
            said = "" if report.done else f"{report.records} records"
            print(f"\r\x1b[K{said}", end="", file=sys.stderr, flush=True)  # noqa: T201 - progress
    assert report is not None
    problems = [str(problem) for problem in report.problems]
    text = f"{report.records} records, {report.covered} under a signed checkpoint: "
    text += "intact" if not problems else "DAMAGED\n" + "\n".join(problems)
    shell.show(
        {"records": report.records, "covered": report.covered, "intact": not problems, "problems": problems}, text
    )
    return FOUND_DAMAGE if problems else OK


def _verify_bundle(shell: Shell, file: Path, key: str, since: str) -> int:
    """Check a bundle or receipt, by the code that is handed to others."""
    own = shell.places.data_dir / "audit" / "log" / KEY_FILE
    if not key and not own.is_file():
        raise InvalidArgument("--key: give the verifier key of the bundle's log; the one in the bundle proves nothing")
    try:
        with file.open("rb") as stream:
            verifier_key = check_bundle.Key.parse(key or own.read_text("utf-8"))
            head, count = check_bundle.check(stream, verifier_key, (), since, expect=shell.args.expect)
    except (check_bundle.Unreadable, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: {error}") from None
    except check_bundle.NotProven as error:
        shell.show({"records": 0, "proven": False, "problem": str(error)}, f"NOT PROVEN: {error}")
        return FOUND_DAMAGE
    said = {"records": count, "proven": True, "origin": head.origin, "size": head.size, "root": head.root.hex()}
    shell.show(said, f"{count} records stand unchanged in the log {head.origin} of {head.size} records: proven")
    return OK


def export(shell: Shell) -> int:
    """Write a bundle; whole or not at all."""
    args = shell.args
    request = audit_pb2.ExportRequest()
    if args.trace:
        request.trace_id = args.trace.lower()
    elif args.event:
        request.event_id = args.event
    else:
        found = _RANGE.fullmatch(args.range)
        if found is None:
            raise InvalidArgument("--range: two sequences, FIRST:END, such as 0:1000; without END all that follow")
        request.range.first, request.range.end = int(found[1]), int(found[2] or 0)
    if args.since:
        request.since = parse(args.since.read_text("utf-8")).size
    with _written_whole(args.out) as stream:
        size = asyncio.run(_fetch(shell, request, stream))
    said = "" if args.out is None else f"wrote {args.out} ({size:,} bytes); `moltbot audit verify {args.out}` checks it"
    if args.out is not None:
        shell.show({"out": str(args.out), "bytes": size}, said)
    return OK


async def _fetch(shell: Shell, request: audit_pb2.ExportRequest, stream: IO[bytes]) -> int:
    size = 0
    async with mesh_channel(shell, "audit", "") as channel:
        stub: Any = audit_pb2_grpc.AuditServiceStub(channel)
        async for part in stub.Export(request, timeout=_EXPORT_S):
            stream.write(part.data)
            size += len(part.data)
            if sys.stderr.isatty():
                print(f"\r\x1b[K{size >> 10} KiB", end="", file=sys.stderr, flush=True)  # noqa: T201 - progress
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201 - progress
    return size


@contextlib.contextmanager
def _written_whole(out: Path | None) -> Generator[IO[bytes]]:
    """A file that is there only when it is whole; standard output if none is named."""
    if out is None:
        yield sys.stdout.buffer
        return
    with tempfile.NamedTemporaryFile(dir=out.absolute().parent, prefix=f".{out.name}-", delete=False) as stream:
        try:
            yield stream
            stream.flush()
            Path(stream.name).replace(out)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def verifier(_: Shell) -> int:
    """Print the program that checks bundles without moltbot."""
    text = resources.files("moltbot_audit").joinpath("check_bundle.py").read_text("utf-8")
    try:
        print(text, end="")  # noqa: T201 - the result
    except BrokenPipeError:
        return FAILED
    tell("moltbot: run it with Python 3.9 or newer and the package cryptography")
    return OK
