"""The log asks a real witness over HTTP, and says so when it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.adapters.witness_http import WitnessFollower, witness_application
from moltbot_audit.check_bundle import Key, read_note
from moltbot_audit.checkpoint import Cosigner, Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_audit.witness import SIZE_TYPE, Witness
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.uuid7 import uuid7


def records(count):
    return [
        decode(
            audit_pb2.AuditEvent(
                event_id=uuid7(),
                time_unix_ns=time.time_ns(),
                type=audit_pb2.EVENT_TYPE_REQUEST,
                outcome=audit_pb2.OUTCOME_SUCCESS,
                subject="key-1",
                action="call",
            ).SerializeToString()
        )
        for _ in range(count)
    ]


def open_log(directory, signer):
    return Ledger(directory, signer, decode, 1 << 16, 0.02)


@contextlib.asynccontextmanager
async def served(witness):
    async with serving(witness_application(witness)) as url:
        yield url


def in_halves(answer):
    """An application that answers `add-checkpoint` in two pieces with a pause between them."""

    async def add_checkpoint(request):
        status, text = await asyncio.to_thread(answer, (await request.read()).decode())
        response = web.StreamResponse(
            status=status, headers={"Content-Type": SIZE_TYPE if status == 409 else "text/plain"}
        )
        await response.prepare(request)
        for half in (text[: len(text) // 2], text[len(text) // 2 :]):
            await response.write(half.encode())
            await asyncio.sleep(0.1)
        return response

    application = web.Application()
    application.router.add_post("/add-checkpoint", add_checkpoint)
    return application


@contextlib.asynccontextmanager
async def serving(application):
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def following(ledger, url, cosigner):
    follower = WitnessFollower(ledger, {url: cosigner.verifier_key}, 0.05)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(met, timeout_s=15.0):
    async with asyncio.timeout(timeout_s):
        while not met():
            await asyncio.sleep(0.02)


@pytest.fixture
def signer(tmp_path):
    return Signer.load(tmp_path / "log.key", "test/log")


@pytest.fixture
def cosigner():
    return Cosigner(Ed25519PrivateKey.generate(), "witness.example/w1")


async def test_checkpoints_are_cosigned_as_the_log_grows_and_after_the_witness_was_away(tmp_path, signer, cosigner):
    ledger = open_log(tmp_path / "log", signer)
    witness = Witness({"test/log": signer.verifier_key}, cosigner, tmp_path / "seen")

    def covered():
        found = ledger.attestations.cosigned()
        return found[1].size if found else 0

    await asyncio.to_thread(ledger.append, records(10))
    async with served(witness) as url, following(ledger, url, cosigner):
        await until(lambda: covered() == 10)
        await asyncio.to_thread(ledger.append, records(7))
        await until(lambda: covered() == 17)
    async with served(witness) as url, following(ledger, url, cosigner):  # knows nothing of what was cosigned
        await asyncio.to_thread(ledger.append, records(3))
        await until(lambda: covered() == 20)
    note, _ = ledger.attestations.cosigned()
    head = read_note(note, Key.parse(signer.verifier_key), [Key.parse(cosigner.verifier_key)])
    assert head.witnesses[0][0] == "witness.example/w1"
    ledger.close()


async def test_an_answer_that_comes_in_pieces_is_read_whole(tmp_path, signer, cosigner):
    ledger = open_log(tmp_path / "log", signer)
    witness = Witness({"test/log": signer.verifier_key}, cosigner, tmp_path / "seen")

    def answer(text):
        reply = witness.add_checkpoint(text)
        return reply.status, reply.body

    await asyncio.to_thread(ledger.append, records(10))
    async with serving(in_halves(answer)) as url, following(ledger, url, cosigner) as follower:
        await until(lambda: ledger.attestations.cosigned() is not None or follower.problems)
        assert not follower.problems
    ledger.close()


async def test_an_answer_without_end_is_given_up(tmp_path, signer, cosigner):
    ledger = open_log(tmp_path / "log", signer)
    await asyncio.to_thread(ledger.append, records(10))
    application = in_halves(lambda _: (200, "x" * (1 << 17)))
    async with serving(application) as url, following(ledger, url, cosigner) as follower:
        await until(lambda: "longer than" in follower.problems.get(url, ""))
    ledger.close()


@pytest.mark.parametrize("size", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "9" * 20, "-1"])
async def test_a_size_that_is_none_is_told_and_the_witness_asked_again(tmp_path, signer, cosigner, size):
    ledger = open_log(tmp_path / "log", signer)
    witness = Witness({"test/log": signer.verifier_key}, cosigner, tmp_path / "seen")
    replies = [(409, f"{size}\n")]

    def answer(text):
        reply = witness.add_checkpoint(text)
        return replies.pop() if replies else (reply.status, reply.body)

    await asyncio.to_thread(ledger.append, records(10))
    async with serving(in_halves(answer)) as url, following(ledger, url, cosigner) as follower:
        await until(lambda: "status 409" in follower.problems.get(url, ""))
        await until(lambda: ledger.attestations.cosigned() is not None)
    ledger.close()


async def test_cosignatures_that_the_disk_refuses_are_asked_for_again(tmp_path, signer, cosigner, monkeypatch):
    ledger = open_log(tmp_path / "log", signer)
    witness = Witness({"test/log": signer.verifier_key}, cosigner, tmp_path / "seen")
    kept, failures = ledger.attestations.keep_cosigned, [OSError(28, "No space left on device")]

    def keep_cosigned(note):
        if failures:
            raise failures.pop()
        kept(note)

    monkeypatch.setattr(ledger.attestations, "keep_cosigned", keep_cosigned)
    await asyncio.to_thread(ledger.append, records(10))
    async with served(witness) as url, following(ledger, url, cosigner) as follower:
        await until(lambda: "No space" in follower.disk_problem)
        await until(lambda: ledger.attestations.cosigned() is not None)
        await until(lambda: not follower.disk_problem)
    ledger.close()


def test_a_key_that_is_no_witness_s_is_refused_before_anything_is_asked(signer):
    with pytest.raises(InvalidArgument, match=r"audit\.witnesses: http://w"):
        WitnessFollower(None, {"http://w": signer.verifier_key}, 1.0)


async def test_a_log_that_was_written_anew_is_told_to_be_forked(tmp_path, signer, cosigner):
    witness = Witness({"test/log": signer.verifier_key}, cosigner, tmp_path / "seen")
    first, second = (open_log(tmp_path / name, signer) for name in ("log", "other"))
    async with served(witness) as url:
        await asyncio.to_thread(first.append, records(10))
        async with following(first, url, cosigner):
            await until(
                lambda: first.attestations.cosigned() is not None and first.attestations.cosigned()[1].size == 10
            )
        await asyncio.to_thread(second.append, records(10))
        await until(lambda: second.checkpoint()[1].size == 10)
        async with following(second, url, cosigner) as follower:
            await until(lambda: "forked" in follower.problems.get(url, ""))
        await asyncio.to_thread(second.append, records(10))
        async with following(second, url, cosigner) as follower:
            await until(lambda: "status 422" in follower.problems.get(url, ""))
    assert second.attestations.cosigned() is None
    first.close()
    second.close()
