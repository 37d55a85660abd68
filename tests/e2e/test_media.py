"""Images and sounds from the client to the upstream, through Envoy and every service, in both shapes."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import uuid

import grpc
import openai
import pytest
from moltbot.gateway.v1 import gateway_pb2 as pb
from moltbot.gateway.v1 import gateway_pb2_grpc

from moltbot_testkit.upstreams import Script

CHAT = "/v1/chat/completions"
IMAGE_AT = "messages[0].content[1].image_url.url"
PNG = b"\x89PNG\r\n\x1a\n" + b"a-picture-nobody-may-keep" * 8
WAV = b"RIFF\x32\0\0\0WAVEfmt " + bytes(38)
pytestmark = pytest.mark.timeout(180)


def url(data: bytes = PNG) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def look(address: str = "", text: str = "What is this?") -> list:
    image = {"type": "image_url", "image_url": {"url": address or url()}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


def body(**changes) -> dict:
    return {"model": "seer", "messages": look()} | changes


def refused(answer, status: int, param: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    return error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_sends_an_image_and_a_sound(world, stream):
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "wav"}}
    messages = look()
    messages[0]["content"][1]["image_url"]["detail"] = "low"
    messages[0]["content"].append(sound)
    with world.playing(Script()) as upstream:
        answer = world.client().chat.completions.create(model="seer", messages=messages, stream=stream)
        if stream:
            said = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        else:
            said = answer.choices[0].message.content
    assert said == "Hello there."
    assert upstream.seen[-1].body["messages"] == messages


def test_a_stub_and_typed_rest_send_an_image(world):
    parts = [pb.Part(text="What is this?"), pb.Part(image=pb.Image(data=PNG, media_type="image/png"))]
    request = pb.ChatRequest(model="seer", messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])
    rest = {"text": "What is this?"}, {"image": {"data": base64.b64encode(PNG).decode(), "mediaType": "image/png"}}
    with world.playing(Script()) as upstream, world.grpc() as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        whole = stub.Chat(request, metadata=key, timeout=60)
        answer = world.http().post(
            "/moltbot/v1/chat", json={"model": "seer", "messages": [{"role": "ROLE_USER", "parts": rest}]}
        )
        assert answer.status_code == 200, answer.text
        seen = [one.body["messages"] for one in upstream.seen]
    assert whole.message.content == answer.json()["message"]["content"] == "Hello there."
    assert seen == [look(), look()]


def test_an_image_fails_over_to_models_that_take_images_alone(world):
    asked = body(model="", moltbot={"task_type": "looks"})
    with world.playing(Script()) as upstream, world.playing(Script(), world.standby) as standby:
        answer = world.http().post(CHAT, json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-moltbot-model"] == "seer"
        assert (len(upstream.seen), len(standby.seen)) == (1, 0)


def test_a_model_that_takes_no_images_is_named_and_those_that_do(world):
    message = refused(world.http().post(CHAT, json=body(model="echo")), 400, "model")
    assert "'echo' does not take images" in message
    assert "seer, seer-down" in message
    with pytest.raises(openai.BadRequestError, match="does not take images"):
        world.client().chat.completions.create(model="moltbot-tiny", messages=look())


def test_curl_with_a_url_is_told_to_send_the_bytes(world):
    image = next(model["endpoint"] for model in world.mesh.json("model", "list") if model["id"] == "seer")
    curl = ["curl", "--silent", "--max-time", "20", "-H", f"Authorization: Bearer {world.mesh.key('e2e')}"]
    data = ["-H", "Content-Type: application/json", "--data", json.dumps(body(messages=look(f"{image}/secret.png")))]
    with world.playing(Script()) as upstream:
        said = subprocess.run(
            ["/usr/bin/env", *curl, *data, f"{world.mesh.url}{CHAT}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        assert upstream.seen == []
    error = json.loads(said)["error"]
    assert error["param"] == IMAGE_AT
    assert "the mesh fetches nothing" in error["message"]
    assert "data:image/png;base64" in error["message"]
    assert "secret" not in said


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("data:image/png;base64,iVBO#", "not base64"),
        (f"data:image/jpeg;base64,{base64.b64encode(PNG).decode()}", "its bytes are those of image/png"),
        (f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}", "is no image type that is taken"),
    ],
)
def test_what_is_no_image_is_refused_by_its_place(world, address, said):
    assert said in refused(world.http().post(CHAT, json=body(messages=look(address))), 400, IMAGE_AT)


def test_a_large_image_passes_whole_and_a_larger_one_is_refused(world):
    large = PNG + bytes((10 << 20) - len(PNG))
    with world.playing(Script()) as upstream:
        answer = world.http().post(CHAT, json=body(messages=look(url(large))))
        assert answer.status_code == 200, answer.text
        (seen,) = upstream.seen
        assert seen.body["messages"] == look(url(large))
        answer = world.http().post(CHAT, json=body(messages=look(url(large + b"\0"))))
        assert "at most 10485760 are taken" in refused(answer, 413, IMAGE_AT)
        answer = world.http().post(CHAT, json=body(messages=[*look(url(large)), *look(url(large))]))
        assert answer.status_code == 413
        assert len(upstream.seen) == 1


def test_grpc_has_the_same_limits(world):
    def asked(data: bytes) -> pb.ChatRequest:
        parts = [pb.Part(image=pb.Image(data=data, media_type="image/png"))]
        return pb.ChatRequest(model="seer", messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])

    large = PNG + bytes((10 << 20) - len(PNG))
    with world.playing(Script()) as upstream, world.grpc() as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        assert stub.Chat(asked(large), metadata=key, timeout=60).message.content == "Hello there."
        with pytest.raises(grpc.RpcError) as refused:
            stub.Chat(asked(large + b"\0"), metadata=key, timeout=60)
        ((seen,),) = (one.body["messages"][0]["content"] for one in upstream.seen)
    assert seen["image_url"]["url"] == url(large)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "messages[0].parts[0].image" in refused.value.details()


def test_a_session_remembers_that_there_was_an_image(world):
    session = {"moltbot": {"session": f"s-{uuid.uuid4().hex}"}}
    with world.playing(Script(chunks=("A", " cat."))) as upstream:
        client = world.client().chat.completions
        client.create(model="seer", messages=look(), extra_body=session)
        client.create(model="seer", messages=look(text="And this?"), extra_body=session)
        client.create(model="echo", messages=[{"role": "user", "content": "Which?"}], extra_body=session)
        second, third = (one.body["messages"] for one in upstream.seen[1:])
    past = [
        {"role": "user", "content": "What is this?\n[image]"},
        {"role": "assistant", "content": "A cat."},
    ]
    assert second == [*past, *look(text="And this?")]
    assert third == [
        *past,
        {"role": "user", "content": "And this?\n[image]"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Which?"},
    ]


def test_the_record_names_the_image_and_nothing_keeps_its_bytes(world):
    asked = f"media-{uuid.uuid4().hex}"
    world.http().post(CHAT, json=body(), headers={"x-request-id": asked})
    world.http().post(CHAT, json=body(model="echo"), headers={"x-request-id": asked})
    limit, found = time.monotonic() + 15, []
    while len(found) < 2 and time.monotonic() < limit:
        query = {"requestId": asked, "type": "EVENT_TYPE_REQUEST"}
        answer = world.http("e2e").post("/moltbot/v1/audit/events:query", json=query)
        found = answer.json().get("events", [])
    notes = [logged["event"]["attributes"]["media"].split(" ") for logged in found]
    assert [note[:2] for note in notes] == [["image/png", str(len(PNG))]] * 2
    assert notes[0][2] != notes[1][2]  # the same image, under each request's own key
    assert len(bytes.fromhex(notes[0][2])) == 32
    pieces = PNG[8:60], base64.b64encode(PNG)[20:80]
    for path in world.mesh.directory.rglob("*"):
        if path.is_file() and not path.is_socket() and path.stat().st_size < 200 << 20:
            data = path.read_bytes()
            assert not any(piece in data for piece in pieces), path


def test_lists_of_models_say_what_they_take(world):
    listed = {model["id"]: model["input_modalities"] for model in world.http().get("/v1/models").json()["data"]}
    with world.grpc() as (channel, key):
        answer = gateway_pb2_grpc.GatewayServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=key)
    typed = {model.id: list(model.input_modalities) for model in answer.models}
    told = {model["id"]: model["input_modalities"] for model in world.mesh.json("model", "list")}
    for found in (listed, typed, told):
        assert (found["seer"], found["echo"]) == (["text", "image", "audio"], ["text"])
