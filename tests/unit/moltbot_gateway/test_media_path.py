"""What the gateway makes of media on their way: routes, quotas, sessions, records. Never their bytes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
from unittest.mock import AsyncMock, Mock

import pytest
from moltbot.context.v1 import context_pb2
from moltbot.router.v1 import router_pb2

from moltbot_gateway.ask import Ask, MeshOptions
from moltbot_gateway.intake import Intake
from moltbot_gateway.media_notes import media_tokens, remembered
from moltbot_gateway.peers import Peers
from moltbot_gateway.recorder import Recorder
from moltbot_mesh.errors import ResourceExhausted
from moltbot_mesh.threads import Threads
from moltbot_models.generation import Media, Message

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(50))
IMAGE, SOUND = Media("image", PNG, "image/png"), Media("audio", b"RIFF....WAVE" + bytes(63_988), "audio/wav")
LOOK = Message("user", "Look: there", parts=("Look: ", IMAGE, "there"))


@pytest.fixture
def peers() -> Peers:
    found = Peers(Mock())
    found.router = Mock(Route=AsyncMock(return_value=router_pb2.RouteResponse()))
    found._context = Mock(AssemblePrompt=AsyncMock(), AppendTurn=AsyncMock())
    return found


@pytest.fixture
def producer() -> Mock:
    return Mock()


@pytest.fixture
def recorder(producer) -> Recorder:
    return Recorder(producer, Mock(), Mock(), b"k" * 32, "gateway", "g-1")


@pytest.mark.parametrize(
    ("parts", "modalities"),
    [(("text",), []), (("see ", IMAGE), ["image"]), ((SOUND, IMAGE, IMAGE), ["audio", "image"])],
)
async def test_the_router_hears_what_stands_in_the_conversation_and_no_more_bytes_for_it(
    peers, exchange, parts, modalities
):
    text = "".join(part for part in parts if isinstance(part, str))
    await peers.route(exchange, Ask(messages=(Message("user", text, parts=parts),)))
    (request,) = peers.router.Route.await_args.args
    assert list(request.modalities) == modalities
    assert (request.prompt_bytes, request.excerpt) == (len(text), text)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message("user", "plain\n"), "plain\n"),
        (LOOK, "Look: \n[image]\nthere"),
        (Message("user", "", parts=(IMAGE, SOUND)), "[image]\n\n[audio]"),
    ],
)
def test_a_session_keeps_the_word_for_media(message, text):
    assert remembered(message) == text


async def test_a_turn_is_kept_without_the_bytes(peers, exchange):
    await peers.append_turn(exchange, [LOOK, Message("assistant", "A cat")])
    (request,) = peers._context.AppendTurn.await_args.args
    assert [message.content for message in request.turn.messages] == ["Look: \n[image]\nthere", "A cat"]
    assert b"PNG" not in request.SerializeToString()


async def test_the_new_messages_keep_their_media_in_a_session(peers, exchange):
    system, past = Message("system", "Be brief"), Message("user", "[image]")
    answer = [context_pb2.StoredMessage(role=m.role, content=remembered(m)) for m in (system, past, LOOK)]
    peers._context.AssemblePrompt.return_value = context_pb2.AssemblePromptResponse(messages=answer)
    asked = Ask(messages=(LOOK, system), mesh=MeshOptions(session="s"))
    assert await peers.assemble(exchange, asked, 3000) == (system, past, LOOK)


def test_tokens_of_media_are_guessed_by_detail_and_by_seconds():
    low = Media("image", PNG, "image/png", "low")
    assert media_tokens([Message("user", parts=(IMAGE,))]) == 255
    assert media_tokens([Message("user", parts=(low, low))]) == 170
    assert media_tokens([Message("user", parts=(SOUND,))]) == 21  # two seconds


async def test_a_record_names_media_by_type_size_and_commitment(recorder, producer, exchange):
    async with Threads("intake", 1, 1) as threads:
        await Intake(recorder, threads).note(exchange, [LOOK, Message("user", parts=(SOUND,))])
    recorder.record(exchange)
    ((event,),) = producer.emit_now.call_args.args
    key = hmac.digest(hmac.digest(b"k" * 32, b"acme", "sha256"), event.event_id, "sha256")
    image, sound = (hmac.new(key, media.data, hashlib.sha256).hexdigest() for media in (IMAGE, SOUND))
    assert event.attributes["media"] == f"image/png {len(PNG)} {image}, audio/wav 64000 {sound}"
    assert PNG not in event.SerializeToString()


async def test_a_request_of_text_has_no_note_of_media(recorder, producer, exchange):
    await Intake(recorder, Mock()).note(exchange, [Message("user", "hello")])
    recorder.record(exchange)
    ((event,),) = producer.emit_now.call_args.args
    assert "media" not in event.attributes


@pytest.mark.parametrize(("size_bytes", "in_thread"), [(1000, False), (1 << 20, True)])
async def test_what_is_large_is_read_beside_the_loop(recorder, size_bytes, in_thread):
    async with Threads("intake", 1, 1) as threads:
        name = await Intake(recorder, threads).read(size_bytes, lambda: threading.current_thread().name)
    assert name.startswith("intake") is in_thread


async def test_a_large_request_has_the_commitment_of_its_bytes(recorder, exchange):
    body = bytes(1 << 20)
    async with Threads("intake", 1, 1) as threads:
        await Intake(recorder, threads).commit(exchange, body, lambda _: None)
    assert exchange.input_digest == recorder.commitment(exchange, body)


async def test_large_requests_beyond_those_that_may_wait_are_refused_and_small_ones_are_not(recorder):
    held = threading.Event()
    async with Threads("intake", 1, 0) as threads:
        intake = Intake(recorder, threads)
        first = asyncio.create_task(intake.read(1 << 20, held.wait, 10))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):
            await intake.read(1 << 20, len, b"")
        assert await intake.read(10, len, b"abc") == 3
        held.set()
        assert await first
