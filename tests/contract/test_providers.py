"""Every upstream protocol against a real server on this machine: the same behaviour, whatever the wire."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_models import tls
from moltbot_models.generation import EmbeddingRequest, GenerationRequest, Message, Sampling, ScoringRequest, Usage
from moltbot_models.manifest import Auth, Manifest
from moltbot_models.providers import generic_http, openai, websocket
from moltbot_models.providers.base import UpstreamContext
from moltbot_models.providers.engines import EngineHost
from moltbot_models.providers.openai_answer import ChunkReader
from moltbot_models.providers.openai_request import chat_body
from moltbot_models.tls import Tls
from moltbot_testkit.certificates import Authority, tls_in_front
from moltbot_testkit.upstream_answers import vector_of
from moltbot_testkit.upstreams import FakeGeneric, FakeOpenAI, Script
from moltbot_testkit.websocket_upstream import FakeWebSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from moltbot_models.generation import Delta
    from moltbot_models.providers.base import Upstream, UpstreamFactory

REQUEST = GenerationRequest(
    "upstream-name",
    (Message("user", "Say hello"),),
    sampling=Sampling(max_tokens=1),
    request_id="req-1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
# How each protocol is played: provider, fake, what the endpoint gains.
PROTOCOLS: dict[str, tuple[UpstreamFactory, type[Any], str]] = {
    "openai": (openai.open_upstream, FakeOpenAI, ""),
    "generic_http/completions": (generic_http.open_upstream, FakeOpenAI, "/completions"),
    "generic_http/json_lines": (generic_http.open_upstream, FakeGeneric, ""),
    "websocket": (websocket.open_upstream, FakeWebSocket, ""),
}


@dataclass
class Bench:
    """One upstream and the server behind it."""

    fake: Any
    manifest: Manifest
    factory: UpstreamFactory
    context: UpstreamContext
    opened: list[Upstream]

    def open(self, **changes: Any) -> Upstream:
        upstream = self.factory(replace(self.manifest, **changes), self.context)
        self.opened.append(upstream)
        return upstream


@pytest.fixture(params=PROTOCOLS, name="bench")
async def _bench(request: pytest.FixtureRequest, tmp_path: Path, socket_enabled: None) -> AsyncIterator[Bench]:
    factory, fake_type, suffix = PROTOCOLS[request.param]
    fake = fake_type()
    engines = EngineHost()
    context = UpstreamContext(tmp_path, {"UPSTREAM_KEY": "s3cret"}, engines)
    async with fake.serve() as endpoint:
        manifest = Manifest(
            "model", "text-generation", request.param.partition("/")[0], endpoint + suffix, timeout_s=5.0
        )
        bench = Bench(fake, manifest, factory, context, [])
        yield bench
        for upstream in bench.opened:
            await upstream.aclose()
    await engines.aclose()


async def answer(upstream: Upstream, request: GenerationRequest = REQUEST, *, stream: bool = True) -> list[Delta]:
    async with asyncio.timeout(10):
        return [delta async for deltas in upstream.generate(request, stream=stream) for delta in deltas]


async def failure(upstream: Upstream, *, stream: bool = True) -> MoltbotError:
    with pytest.raises(MoltbotError) as caught:
        await answer(upstream, stream=stream)
    return caught.value


@pytest.mark.parametrize("stream", [True, False])
async def test_the_whole_text_arrives_and_one_delta_ends_it(bench: Bench, stream: bool):
    deltas = await answer(bench.open(), stream=stream)

    assert "".join(delta.text for delta in deltas) == "Hello there."
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert deltas[-1].finish_reason == "stop"


async def test_pieces_arrive_as_they_are_made(bench: Bench):
    bench.fake.script = Script(chunks=("one", " two", " three"), between_s=0.05)
    items = [deltas async for deltas in bench.open().generate(REQUEST) if any(delta.text for delta in deltas)]

    assert [deltas[0].text for deltas in items] == ["one", " two", " three"]


async def test_the_upstreams_count_of_tokens_is_kept(bench: Bench):
    if isinstance(bench.fake, FakeGeneric):
        pytest.skip("this server does not count")
    assert (await answer(bench.open()))[-1].usage == Usage(5, 3)


async def test_the_request_carries_its_model_id_and_trace(bench: Bench):
    await answer(bench.open())

    seen = bench.fake.seen[0]
    assert seen.body["model"] == "upstream-name"
    assert seen.headers["x-request-id"] == "req-1"
    assert seen.headers["traceparent"] == REQUEST.traceparent


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (Auth("bearer", key_env="UPSTREAM_KEY"), "authorization", "Bearer s3cret"),
        (Auth("api_key", key="s3cret"), "authorization", "Bearer s3cret"),
        (Auth("api_key", key="s3cret", header="X-Api-Key"), "x-api-key", "s3cret"),
    ],
)
async def test_the_secret_travels_in_the_header_that_the_manifest_names(
    bench: Bench, auth: Auth, header: str, value: str
):
    await answer(bench.open(auth=auth))
    assert bench.fake.seen[0].headers[header] == value


@pytest.mark.parametrize(
    ("status", "error_type", "reason"),
    [
        (400, InvalidArgument, "INVALID_ARGUMENT"),
        (422, InvalidArgument, "INVALID_ARGUMENT"),
        (413, InvalidArgument, "REQUEST_TOO_LARGE"),
        (401, Unavailable, "UPSTREAM_ERROR"),
        (403, Unavailable, "UPSTREAM_ERROR"),
        (404, Unavailable, "UPSTREAM_ERROR"),
        (429, Unavailable, "UPSTREAM_UNAVAILABLE"),
        (500, Unavailable, "UPSTREAM_UNAVAILABLE"),
        (503, Unavailable, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_an_http_error_becomes_the_meshs(bench: Bench, status: int, error_type: type[MoltbotError], reason: str):
    bench.fake.script = Script(status=status, headers={"Retry-After": "7"})
    error = await failure(bench.open())

    assert (type(error), error.reason) == (error_type, reason)
    assert error.retry_after_s == (7.0 if status in {429, 500, 503} else None)


async def test_the_upstreams_own_words_are_not_passed_on(bench: Bench):
    said = b'{"error": {"message": "bad key s3cret for prompt Say hello", "type": "invalid_request"}}'
    bench.fake.script = Script(status=400, body=said)
    assert "s3cret" not in (await failure(bench.open())).message


async def test_a_redirect_is_refused_and_the_secret_stays(bench: Bench):
    bench.fake.queue.append(Script(status=307, headers={"Location": "/stolen"}))
    error = await failure(bench.open(auth=Auth("api_key", key="s3cret", header="X-Api-Key")))

    assert (type(error), error.reason) == (Unavailable, "UPSTREAM_ERROR")
    assert bench.fake.requests == 1


async def test_nobody_listening_is_unavailable(bench: Bench, unused_tcp_port: int):
    scheme, _, rest = bench.manifest.endpoint.partition("://")
    path = rest.partition("/")[2]
    upstream = bench.open(endpoint=f"{scheme}://127.0.0.1:{unused_tcp_port}/{path}")

    assert (await failure(upstream)).reason == "UPSTREAM_UNAVAILABLE"
    with pytest.raises(Unavailable):
        await upstream.probe()


async def test_silence_before_the_first_token_ends_at_its_limit(bench: Bench):
    bench.fake.script = Script(first_token_s=3.0)
    started = time.monotonic()
    error = await failure(bench.open(timeout_s=0.2))

    assert (error.reason, time.monotonic() - started < 2.5) == ("UPSTREAM_UNAVAILABLE", True)
    assert "first token" in error.message
    await bench.fake.wait_left()


async def test_silence_before_the_head_ends_at_its_limit(bench: Bench):
    bench.fake.script = Script(delay_s=3.0)
    assert "first token" in (await failure(bench.open(timeout_s=0.2))).message
    await bench.fake.wait_left()


async def test_silence_between_two_tokens_ends_at_its_limit(bench: Bench):
    bench.fake.script = Script(between_s=3.0)
    started = time.monotonic()
    error = await failure(bench.open(timeout_s=30.0, idle_timeout_s=0.2))

    # Long before the next token, and before the limit of the first.
    assert (error.reason, time.monotonic() - started < 2.5) == ("UPSTREAM_UNAVAILABLE", True)
    assert "next token" in error.message


async def test_the_time_that_the_consumer_takes_is_not_the_upstreams(bench: Bench):
    bench.fake.script = Script(chunks=("a", "b", "c"), between_s=0.02)
    texts = ""
    async for deltas in bench.open(idle_timeout_s=0.1).generate(REQUEST):
        texts += "".join(delta.text for delta in deltas)
        await asyncio.sleep(0.25)

    assert texts == "abc"


async def test_closing_the_stream_stops_the_upstream(bench: Bench):
    bench.fake.script = Script(chunks=("x",) * 100, between_s=0.05)
    pieces = bench.open().generate(REQUEST)
    await anext(pieces)
    started = time.monotonic()
    await pieces.aclose()

    assert time.monotonic() - started < 3
    await bench.fake.wait_left(3.0)


@pytest.mark.parametrize("waiting", [Script(delay_s=5.0), Script(chunks=("x",) * 100, between_s=0.5)])
async def test_cancelling_the_consumer_stops_the_upstream(bench: Bench, waiting: Script):
    bench.fake.script = waiting
    task = asyncio.create_task(answer(bench.open()))
    while not bench.fake.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    await bench.fake.wait_left(4.0)  # before any time limit ends it


async def test_a_connection_that_breaks_mid_stream_is_an_error_after_what_came(bench: Bench):
    bench.fake.script = Script(disconnect_after=2, between_s=0.02)
    texts: list[str] = []

    async def read() -> None:
        async for deltas in bench.open().generate(REQUEST):
            texts.extend(delta.text for delta in deltas)

    with pytest.raises(Unavailable) as caught:
        await read()

    assert "".join(texts) == "Hello there"
    assert caught.value.reason in {"UPSTREAM_UNAVAILABLE", "UPSTREAM_ERROR"}


@pytest.mark.parametrize("body", [b"{nonsense", b'{"choices": 5}', b'{"unheard": "of"}', b"{}"])
async def test_an_answer_in_no_known_form_is_an_error(bench: Bench, body: bytes):
    bench.fake.script = Script(body=body)
    error = await failure(bench.open(), stream=False)
    assert (type(error), error.reason) == (Unavailable, "UPSTREAM_ERROR")


async def test_an_error_object_in_a_good_answer_is_an_error(bench: Bench):
    bench.fake.script = Script(body=b'{"error": {"code": 429, "message": "slow down"}}')
    assert (await failure(bench.open())).reason == "UPSTREAM_UNAVAILABLE"


async def test_an_answer_without_bounds_is_cut(bench: Bench):
    bench.fake.script = Script(body=b'{"text": "' + b"x" * (17 << 20) + b'"}')
    error = await failure(bench.open(), stream=False)
    assert (type(error), error.reason) == (Unavailable, "UPSTREAM_ERROR")


async def test_many_streams_at_once_do_not_mix(bench: Bench):
    if not isinstance(bench.fake, FakeOpenAI):
        pytest.skip("only this server echoes")
    bench.fake.script = Script(echo=True, between_s=0.001)
    upstream = bench.open()
    asked = [f"number {n} of many words" for n in range(40)]
    answers = await asyncio.gather(*(answer(upstream, replace(REQUEST, messages=(), prompt=text)) for text in asked))

    assert ["".join(delta.text for delta in deltas) for deltas in answers] == asked


async def test_a_closed_upstream_says_so(bench: Bench):
    upstream = bench.open()
    await answer(upstream)
    await upstream.aclose()
    await upstream.aclose()

    assert (await failure(upstream)).reason == "UPSTREAM_UNAVAILABLE"


async def test_a_live_upstream_passes_the_probe(bench: Bench):
    await bench.open().probe()


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thoughts_of_an_upstream_stay_apart_from_its_answer(tmp_path: Path, socket_enabled: None, name: str):
    message = {"role": "assistant", "content": "4", name: "2 + 2"}
    whole = msgspec.json.encode({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    pieces = [{name: "2 +"}, {name: " 2"}, {"content": "4"}]
    reader = ChunkReader("m")
    events = [msgspec.json.encode({"choices": [{"index": 0, "delta": piece}]}) for piece in pieces]
    one_by_one = [delta for event in events for delta in reader.deltas((event,))]
    (at_once,) = ChunkReader("m").deltas(events)
    fake = FakeOpenAI()
    fake.script = Script(body=whole)
    async with fake.serve() as endpoint:
        upstream = openai.open_upstream(
            Manifest("m", "text-generation", "openai", endpoint), UpstreamContext(tmp_path, {}, EngineHost())
        )
        asked = replace(REQUEST, template_options=(("enable_thinking", True),))
        deltas = [d async for part in upstream.generate(asked, stream=False) for d in part]
        await upstream.aclose()

    assert [(d.reasoning, d.text) for d in one_by_one] == [("2 +", ""), (" 2", ""), ("", "4")]
    assert (at_once.reasoning, at_once.text) == ("2 + 2", "4")
    assert [(d.reasoning, d.text) for d in deltas] == [("2 + 2", "4")]
    assert chat_body(asked, stream=False)["chat_template_kwargs"] == {"enable_thinking": True}


async def test_scores_come_in_the_order_of_the_documents(tmp_path: Path, socket_enabled: None):
    context = UpstreamContext(tmp_path, {}, EngineHost())
    request = ScoringRequest("m", ("no", "a red fox", "red"), "a red fox")
    async with FakeOpenAI().serve() as endpoint:
        upstream = openai.open_upstream(Manifest("m", "rerank", "openai", endpoint), context)
        found = await upstream.score(request)
        with pytest.raises(InvalidArgument, match="no classes"):
            await upstream.score(replace(request, query=None))
        await upstream.aclose()

    assert [row[0] for row in found.values] == pytest.approx([0, 1, 1 / 3])
    assert found.usage.prompt_tokens == 5


@pytest.mark.parametrize(
    "body", [b"{}", b'{"results": [{"index": 1, "relevance_score": 1}]}', b'{"results": [{"index": 0}]}', b"["]
)
async def test_a_ranking_that_is_none_is_refused(tmp_path: Path, socket_enabled: None, body: bytes):
    fake = FakeOpenAI()
    fake.script = Script(body=body)
    async with fake.serve() as endpoint:
        upstream = openai.open_upstream(
            Manifest("m", "rerank", "openai", endpoint), UpstreamContext(tmp_path, {}, EngineHost())
        )
        with pytest.raises(Unavailable) as refused:
            await upstream.score(ScoringRequest("m", ("one",), "q"))
        await upstream.aclose()
    assert refused.value.reason == "UPSTREAM_ERROR"


async def test_vectors_come_in_the_order_of_the_texts(tmp_path: Path, socket_enabled: None):
    context = UpstreamContext(tmp_path, {}, EngineHost())
    async with FakeOpenAI().serve() as endpoint:
        for factory, suffix in ((openai.open_upstream, ""), (generic_http.open_upstream, "/embeddings")):
            upstream = factory(Manifest("m", "embedding", "openai", endpoint + suffix), context)
            found = await upstream.embed(EmbeddingRequest("m", ("first", "second text")))
            await upstream.aclose()

            assert found.vectors == (tuple(vector_of("first")), tuple(vector_of("second text")))
            assert found.usage.prompt_tokens == 3


async def test_certificates_prove_both_sides_and_are_read_again_when_renewed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK_S", 0.0)
    authority, foreign = Authority(tmp_path), Authority(tmp_path, "foreign")
    mine, theirs = authority.issue("mesh", client=True), authority.issue("models.example")
    scheme, _, place = bench.manifest.endpoint.partition("://")
    port, slash, path = place.partition(":")[2].partition("/")
    async with tls_in_front(int(port), theirs, authority.cert) as front:
        endpoint = f"{scheme}s://127.0.0.1:{front}{slash}{path}"
        good = Tls(str(authority.cert), str(mine.cert), str(mine.key), "models.example")

        async def asked(upstream: Upstream) -> str:
            return "".join([delta.text async for deltas in upstream.generate(REQUEST) for delta in deltas])

        upstream = bench.open(endpoint=endpoint, tls=good)
        said = await asked(upstream)
        assert said
        await upstream.probe()
        authority.issue("mesh", client=True)
        assert await asked(upstream) == said
        stranger = foreign.issue("mesh", client=True)
        late = authority.issue("mesh", client=True, expired=True)
        for change in (
            {"server_name": "other.example"},
            {"ca_file": str(foreign.cert)},
            {"cert_file": "", "key_file": ""},
            {"cert_file": str(stranger.cert), "key_file": str(stranger.key)},
            {"cert_file": str(late.cert), "key_file": str(late.key)},
        ):
            with pytest.raises(Unavailable):
                await asked(bench.open(endpoint=endpoint, tls=replace(good, **change)))
