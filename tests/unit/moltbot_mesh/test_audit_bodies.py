"""Bodies reach the audit service sealed, also after it was away; none stands on disk in clear, none is waited for."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from moltbot.audit.v1 import privacy_pb2

from moltbot_mesh.audit.bodies import BodyKeeper
from moltbot_mesh.audit.sealing import Opener
from moltbot_mesh.errors import InvalidArgument, ResourceExhausted, Unavailable

CANARY = b"canary-81c2"


class Service:
    """The audit service as a producer sees it."""

    def __init__(self):
        self.opener = Opener(X25519PrivateKey.generate())
        self.key = self.opener.public_key
        self.away = False
        self.failure = None
        self.kept: dict[bytes, privacy_pb2.Body] = {}

    async def GetBodyKey(self, request, timeout):  # noqa: N802
        if self.away:
            raise Unavailable("away")
        return privacy_pb2.GetBodyKeyResponse(public_key=self.key)

    async def PutBodies(self, request, timeout):  # noqa: N802
        if self.away:
            raise Unavailable("away")
        if self.failure:
            raise self.failure
        self.kept |= {one.event_id: self.opener.open(one) for one in request.bodies}
        return privacy_pb2.PutBodiesResponse(kept=len(request.bodies))


def keep(keeper, number):
    body = privacy_pb2.Body(tenant="acme", data_subject="alice", time_unix_ns=1, input=CANARY, output=b"%d" % number)
    keeper.keep(number.to_bytes(16), body)


async def until(met, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not met():
            await asyncio.sleep(0.01)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "bodies"


def on_disk(directory):
    return b"".join(file.read_bytes() for file in directory.iterdir())


async def test_bodies_are_handed_over(service, directory):
    async with BodyKeeper(service, directory).running() as keeper:
        for number in range(100):
            keep(keeper, number)
        await until(lambda: len(service.kept) == 100)
    assert service.kept[(7).to_bytes(16)].output == b"7"


async def test_what_the_service_does_not_take_waits_on_disk_sealed(service, directory):
    async with BodyKeeper(service, directory).running() as keeper:
        await until(lambda: keeper._known)
        service.away = True
        for number in range(10):
            keep(keeper, number)
        await until(lambda: any(directory.glob("*.sealed")))
        assert CANARY not in on_disk(directory)
        service.away = False
        await until(lambda: len(service.kept) == 10)
        await until(lambda: not any(directory.glob("*.sealed")))


async def test_bodies_outlive_a_stop_and_a_start_without_the_service(service, directory):
    async with BodyKeeper(service, directory).running() as keeper:
        await until(lambda: keeper._known)
        service.away = True
        keep(keeper, 1)
    async with BodyKeeper(service, directory).running() as keeper:
        assert keeper.wanted
        keep(keeper, 2)
        await asyncio.sleep(0.1)
        service.away = False
        await until(lambda: len(service.kept) == 2)
    assert CANARY not in on_disk(directory)


async def test_where_none_are_kept_nothing_is_gathered(service, directory):
    service.key = b""
    async with BodyKeeper(service, directory).running() as keeper:
        keep(keeper, 1)
        await until(lambda: not keeper.wanted)
        keep(keeper, 2)
        assert not keeper._queue
    assert CANARY not in on_disk(directory)


async def test_beyond_its_room_bodies_are_dropped_and_counted(service, directory):
    service.away = True
    async with BodyKeeper(service, directory, waiting_bytes=40).running() as keeper:
        for number in range(5):
            keep(keeper, number)
        assert keeper.dropped == 2


async def test_bodies_that_can_never_be_kept_are_counted_and_do_not_stop_the_others(service, directory):
    async with BodyKeeper(service, directory).running() as keeper:
        service.failure = InvalidArgument("no")
        keep(keeper, 1)
        await until(lambda: keeper.dropped == 1)
        service.failure = None
        keep(keeper, 2)
        await until(lambda: len(service.kept) == 1)


async def test_a_stop_while_bodies_are_under_way_leaves_them_on_disk(service, directory):
    under_way = asyncio.Event()

    async def hang(request, timeout):
        under_way.set()
        await asyncio.Event().wait()

    put, service.PutBodies = service.PutBodies, hang
    async with BodyKeeper(service, directory).running() as keeper:
        keep(keeper, 1)
        await asyncio.wait_for(under_way.wait(), 10)
    service.PutBodies = put
    async with BodyKeeper(service, directory).running():
        await until(lambda: len(service.kept) == 1)


async def test_one_bad_body_takes_no_other_with_it(service, directory):
    put = service.PutBodies

    async def choosy(request, timeout):
        if any(one.event_id == (3).to_bytes(16) for one in request.bodies):
            raise InvalidArgument("not whole")
        return await put(request, timeout)

    service.PutBodies = choosy
    async with BodyKeeper(service, directory).running() as keeper:
        for number in range(8):
            keep(keeper, number)
        await until(lambda: len(service.kept) == 7)
        await until(lambda: keeper.dropped == 1)


async def test_a_damaged_file_is_set_aside_and_the_next_is_sent(service, directory):
    directory.mkdir()
    (directory / "0.sealed").write_bytes(b"\xff")
    async with BodyKeeper(service, directory).running() as keeper:
        await until(lambda: keeper._known)
        keep(keeper, 1)
        await until(lambda: len(service.kept) == 1 and (directory / "0.damaged").exists())


async def test_a_body_that_the_service_never_takes_is_dropped_at_once(service, directory):
    async with BodyKeeper(service, directory).running() as keeper:
        keeper.keep(bytes(16), privacy_pb2.Body(input=bytes(20 << 20)))
        assert keeper.dropped == 1


async def test_a_body_that_comes_while_the_disk_is_looked_at_is_not_forgotten(service, directory):
    loop, looks = asyncio.get_running_loop(), itertools.count()

    def come(keeper, number, came):
        keep(keeper, number)
        came.set()

    async with BodyKeeper(service, directory).running() as keeper:
        await until(lambda: keeper._known)
        waiting = keeper._waiting

        def look():
            number = next(looks)
            if number in {1, 3, 5}:  # every other look is whether there is anything to do, before it waits
                came = threading.Event()
                loop.call_soon_threadsafe(come, keeper, number, came)
                came.wait(10)
            return waiting()

        keeper._waiting = look
        keeper._wake.set()
        await until(lambda: len(service.kept) == 3)


async def test_a_batch_has_no_more_than_the_service_takes(service, directory):
    put, sizes = service.PutBodies, []

    async def weigh(request, timeout):
        sizes.append((len(request.bodies), request.ByteSize()))
        return await put(request, timeout)

    service.PutBodies = weigh
    async with BodyKeeper(service, directory).running() as keeper:
        for number, size in enumerate((3 << 20, 3 << 20, 9 << 20, 1)):
            body = privacy_pb2.Body(tenant="acme", data_subject="alice", time_unix_ns=1, input=bytes(size))
            keeper.keep(number.to_bytes(16), body)
        await until(lambda: len(service.kept) == 4)
    assert all(count == 1 or size <= 5 << 20 for count, size in sizes)
    assert max(count for count, _ in sizes) == 1


async def test_what_cannot_be_read_from_the_disk_is_set_aside_and_the_next_is_sent(service, directory):
    (directory / "0.sealed").mkdir(parents=True)  # reading it is an OSError
    async with BodyKeeper(service, directory).running() as keeper:
        await until(lambda: keeper._known)
        keep(keeper, 1)
        await until(lambda: len(service.kept) == 1 and (directory / "0.damaged").exists())


async def test_a_refused_file_does_not_hold_up_the_next(service, directory):
    async with BodyKeeper(service, directory).running() as keeper:
        await until(lambda: keeper._known)
        service.away = True
        keep(keeper, 1)
        await until(lambda: len(list(directory.glob("*.sealed"))) == 1)
        keep(keeper, 2)
    put = service.PutBodies

    async def full(request, timeout):
        if any(one.event_id == (1).to_bytes(16) for one in request.bodies):
            raise ResourceExhausted("no room for it")
        return await put(request, timeout)

    service.PutBodies, service.away = full, False
    async with BodyKeeper(service, directory).running():
        await until(lambda: list(service.kept) == [(2).to_bytes(16)])
