"""Checkpoints are stamped by a real authority (`openssl ts`), and bundles carry a stamp that `openssl` takes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import time

import pytest
from aiohttp import web
from moltbot.audit.v1 import audit_pb2

from moltbot_audit import check_bundle
from moltbot_audit.adapters.time_stamps import TimeStamper, check_time_stamp, read_certificates
from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.export import bundle
from moltbot_audit.ledger import Ledger
from moltbot_mesh.errors import DataLoss, InvalidArgument
from moltbot_mesh.uuid7 import uuid7

CONFIG = """
[tsa]
default_tsa = one
[one]
serial = {0}/serial
signer_cert = {0}/tsa.pem
signer_key = {0}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
[ext]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
"""


class Authority:
    """A time stamp authority of openssl's."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        (directory / "tsa.cnf").write_text(CONFIG.format(directory))
        (directory / "serial").write_text("01\n")
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
        self.run(*new, "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem")
        self.run(
            "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Test TSA", "-keyout", "tsa.key", "-out", "csr"
        )
        signed = ("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        self.run(*signed, "-extfile", "tsa.cnf", "-extensions", "ext", "-out", "tsa.pem")
        self.status = 200
        self.halves = False

    @property
    def ca_file(self):
        return self.directory / "ca.pem"

    def run(self, *arguments, expect=0):
        done = subprocess.run(
            ["openssl", *map(str, arguments)], cwd=self.directory, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == expect, done.stderr.decode()
        return done

    async def answer(self, request):
        (self.directory / "query").write_bytes(await request.read())
        reply = ("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply")
        await asyncio.to_thread(self.run, *reply)
        body = (self.directory / "reply").read_bytes()
        if self.halves:
            response = web.StreamResponse(headers={"Content-Type": "application/timestamp-reply"})
            await response.prepare(request)
            for half in (body[:500], body[500:]):
                await response.write(half)
                await asyncio.sleep(0.1)
            return response
        return web.Response(status=self.status, body=body, content_type="application/timestamp-reply")

    @contextlib.asynccontextmanager
    async def serving(self):
        application = web.Application()
        application.router.add_post("/", self.answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()


def records(count):
    given = {"type": audit_pb2.EVENT_TYPE_REQUEST, "outcome": audit_pb2.OUTCOME_SUCCESS, "subject": "k", "action": "a"}
    made = (audit_pb2.AuditEvent(event_id=uuid7(), time_unix_ns=time.time_ns(), **given) for _ in range(count))
    return [decode(one.SerializeToString()) for one in made]


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "tsa")


@pytest.fixture
def ledger(tmp_path):
    log = Ledger(tmp_path / "log", Signer.load(tmp_path / "log.key", "test/log"), decode, 1 << 16, 0.02)
    log.append(records(10))
    limit = time.monotonic() + 10
    while log.checkpoint()[1].size < 10:
        assert time.monotonic() < limit
        time.sleep(0.01)
    yield log
    log.close()


@contextlib.asynccontextmanager
async def stamping(ledger, url, ca_file):
    stamper = TimeStamper(ledger, url, ca_file, 0.05)
    task = asyncio.create_task(stamper.run())
    try:
        yield stamper
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(met):
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0.02)


async def test_a_bundle_carries_a_stamp_that_openssl_takes(ledger, authority, tmp_path):
    async with authority.serving() as url, stamping(ledger, url, authority.ca_file):
        await until(lambda: ledger.attestations.newest_time_stamp() == 10)
    file, stamp = tmp_path / "bundle", tmp_path / "stamp.tsr"
    file.write_bytes(b"".join(bundle(ledger, [3, 7], "a test")))
    program = [sys.executable, "-I", check_bundle.__file__, file, "--key", ledger.verifier_key, "--time-stamp", stamp]
    done = await asyncio.to_thread(subprocess.run, program, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    verify = ("ts", "-verify", "-in", stamp, "-CAfile", "ca.pem", "-data")
    authority.run(*verify, f"{stamp}.data")
    authority.run(*verify, file, expect=1)


async def test_the_oldest_stamp_that_covers_a_record_is_told(ledger, authority):
    async with authority.serving() as url, stamping(ledger, url, authority.ca_file):
        await until(lambda: ledger.attestations.newest_time_stamp() == 10)
        await asyncio.to_thread(ledger.append, records(10))
        await until(lambda: ledger.attestations.newest_time_stamp() == 20)
    key = check_bundle.Key.parse(ledger.verifier_key)
    for sequence, size in ((3, 10), (9, 10), (10, 20)):
        data = b"".join(bundle(ledger, [sequence], "a test"))
        assert check_bundle.check(io.BytesIO(data), key)[0].size == size


async def test_a_stamp_that_comes_in_pieces_is_taken_whole(ledger, authority):
    authority.halves = True
    async with authority.serving() as url, stamping(ledger, url, authority.ca_file) as stamper:
        await until(lambda: ledger.attestations.newest_time_stamp() == 10 or stamper.problem)
        assert stamper.problem == ""


async def test_an_authority_that_fails_is_told_and_asked_again(ledger, authority):
    authority.status = 503
    async with authority.serving() as url, stamping(ledger, url, authority.ca_file) as stamper:
        await until(lambda: "503" in stamper.problem)
        authority.status = 200
        await until(lambda: ledger.attestations.newest_time_stamp() == 10)
        await until(lambda: not stamper.problem)  # the file is seen before it is synced


async def test_a_stamp_of_an_unknown_authority_is_not_kept(ledger, authority, tmp_path):
    other = Authority(tmp_path / "other")
    async with authority.serving() as url, stamping(ledger, url, other.ca_file) as stamper:
        await until(lambda: "does not hold" in stamper.problem)
    assert ledger.attestations.newest_time_stamp() == 0


async def test_a_stamp_of_other_data_does_not_hold(ledger, authority):
    async with authority.serving() as url, stamping(ledger, url, authority.ca_file):
        await until(lambda: ledger.attestations.newest_time_stamp() == 10)
    _, head, response = ledger.attestations.time_stamped(3)
    roots = read_certificates(authority.ca_file)
    assert check_time_stamp(response, head.body.encode(), roots).startswith("20")
    with pytest.raises(DataLoss):
        check_time_stamp(response, b"other data", roots)
    with pytest.raises(DataLoss):
        check_time_stamp(b"no stamp", head.body.encode(), roots)


def test_a_file_without_certificates_is_refused(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InvalidArgument):
        read_certificates(tmp_path / "ca.pem")
