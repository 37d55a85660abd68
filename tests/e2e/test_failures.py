"""Parts that fail while requests run: upstreams, Triton, clients that leave."""

from __future__ import annotations

import os
import signal
import threading
import time

import openai
import pytest

from moltbot_testkit.upstreams import Script

TEXT = "moltbot-tiny"
pytestmark = pytest.mark.timeout(240)


def ask(world, model="auto", *, task_type=None, **options):
    extra = {"extra_body": {"moltbot": {"task_type": task_type}}} if task_type else {}
    return world.client().chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], **extra, **options
    )


def until(what, timeout_s=10.0):
    limit = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.02)


def test_the_next_model_answers_for_one_that_is_down(world):
    with world.playing(Script(chunks=("from", " standby")), world.standby):
        raw = ask(world, task_type="failover")
    assert raw.headers["x-moltbot-model"] == "standby"
    assert raw.parse().choices[0].message.content == "from standby"


@pytest.mark.parametrize("script", [Script(status=500), Script(status=429), Script(disconnect_after=0)])
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_model_answers_for_one_that_fails_before_its_first_token(world, script, stream):
    with world.playing(script, world.brittle), world.playing(Script(chunks=("saved",)), world.standby):
        raw = ask(world, task_type="breaks", stream=stream)
        if stream:
            text = "".join(piece.choices[0].delta.content or "" for piece in raw.parse() if piece.choices)
        else:
            text = raw.parse().choices[0].message.content
    assert (text, raw.headers["x-moltbot-model"]) == ("saved", "standby")


def test_a_stream_that_breaks_after_its_first_token_ends_with_an_error(world):
    # Chunks far enough apart that the first is on its way before the break.
    with world.playing(Script(chunks=("one", " two", " three"), between_s=2.0, disconnect_after=2)):
        lines = []
        with world.http().stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "echo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]},
        ) as answer:
            lines += [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert any("one" in line for line in lines)
    assert '"error"' in lines[-1]
    assert "data: [DONE]" not in lines


def test_a_model_whose_all_attempts_fail_ends_with_a_clear_error(world):
    with pytest.raises(openai.InternalServerError) as raised:
        ask(world, model="down")
    assert raised.value.status_code in {502, 503}
    assert raised.value.body["message"]


def test_the_upstream_is_told_when_the_client_has_gone(world):
    with world.playing(Script(chunks=("word ",) * 500, between_s=0.05)) as upstream:
        before = upstream.cancelled
        with ask(world, "echo", stream=True).parse() as stream:
            next(iter(stream))
        until(lambda: upstream.cancelled == before + 1)


def test_the_upstream_is_told_when_a_client_that_does_not_stream_has_gone(world):
    with world.playing(Script(delay_s=20.0)) as upstream:
        before = upstream.cancelled
        for timeout_s in (0.5, 2.0, 8.0):
            with pytest.raises(openai.APITimeoutError):
                ask(world, "echo", timeout=timeout_s)
            if upstream.seen:
                break
        until(lambda: upstream.cancelled == before + len(upstream.seen) > before)


def test_triton_killed_comes_back_and_no_answer_is_false(world):
    def question():
        return ask(world, TEXT, max_tokens=60, temperature=0).parse().choices[0].message.content

    right = question()
    killed, answers, errors = world.mesh.triton_pid(), [], []

    def streams():
        for _ in range(3):
            try:
                pieces = list(ask(world, TEXT, max_tokens=60, temperature=0, stream=True).parse())
                answers.append("".join(p.choices[0].delta.content or "" for p in pieces if p.choices))
            except openai.APIError as error:
                errors.append(error)

    threads = [threading.Thread(target=streams) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    os.kill(killed, signal.SIGKILL)
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    # An answer that came whole is the right one; the others ended with an error that says so.
    assert set(answers) <= {right}
    assert len(answers) + len(errors) == 12

    def recovered():
        try:
            return question() == right
        except openai.APIError:
            return False

    until(recovered, 90)
    assert world.mesh.triton_pid() != killed
    until(lambda: world.http().get("/readyz").status_code == 200, 30)


def test_a_service_that_is_away_is_named_and_plain_requests_go_on(world):
    def degraded():
        answer = world.http(None).get("/readyz")
        assert answer.status_code == 200, answer.text
        return answer.json().get("degraded", [])

    def until(condition):
        limit = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < limit, degraded()
            time.sleep(0.1)

    assert degraded() == []
    if world.mesh.shape == "daemon":
        return
    context = world.mesh.processes["context"]
    context.stop(20)
    try:
        until(lambda: degraded() == ["context: no instance is registered"])
        assert "away: context" in world.mesh.command("status").stdout
        sent = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
        assert world.http().post("/v1/chat/completions", json=sent).status_code == 200
    finally:
        context.start()
    until(lambda: degraded() == [])
