"""The models in process, as where Triton's wheel does not exist: the same encoder, the same vectors."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from moltbot_mesh.errors import InvalidArgument, Unavailable
from moltbot_models.generation import EmbeddingRequest, GenerationRequest, ScoringRequest
from moltbot_models.manifest import Manifest
from moltbot_models.providers import embedded
from moltbot_models.providers.base import UpstreamContext
from moltbot_models.providers.embedded import open_upstream
from moltbot_models.providers.engines import EngineHost
from moltbot_testkit.random_encoder import write_encoder
from moltbot_testkit.triton import embedder_path


@pytest.fixture
async def context(tmp_path):
    async with contextlib.aclosing(EngineHost()) as engines:
        yield UpstreamContext(tmp_path, {}, engines)


def manifest(path, task="embedding"):
    return Manifest("minilm", task, "embedded", path=str(path))


async def test_texts_become_vectors_in_process(context):
    upstream = open_upstream(manifest(embedder_path()), context)
    await upstream.probe()
    found = await upstream.embed(EmbeddingRequest("minilm", ("A cat sits.", "A kitten rests.", "The price fell.")))
    cat, kitten, price = np.array(found.vectors)
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-3)
    assert cat @ kitten > cat @ price
    assert found.usage.prompt_tokens > 6
    with pytest.raises(InvalidArgument, match="384"):
        await upstream.embed(EmbeddingRequest("minilm", ("a",), dimensions=100))


async def test_a_model_is_asked_for_what_it_does(context):
    text = open_upstream(manifest(embedder_path(), "text-generation"), context)
    with pytest.raises(InvalidArgument, match="type embedding"):
        await text.embed(EmbeddingRequest("minilm", ("a",)))


async def test_a_directory_that_is_no_encoder_is_named(context, tmp_path):
    upstream = open_upstream(manifest(tmp_path), context)
    with pytest.raises(Unavailable, match=str(tmp_path)):
        await upstream.probe()


async def test_a_classifier_computes_nothing_for_an_answer_that_is_too_long(context, tmp_path, monkeypatch):
    write_encoder(tmp_path, labels=40)
    upstream = open_upstream(manifest(tmp_path, "classification"), context)
    computed = []
    scored = embedded._scored
    monkeypatch.setattr(embedded, "_scored", lambda *asked: computed.append(1) or scored(*asked))
    with pytest.raises(InvalidArgument, match="send at most 1,638 texts"):
        await upstream.score(ScoringRequest("minilm", ("w5",) * 1639))
    assert not computed
    found = await upstream.score(ScoringRequest("minilm", ("w5",) * 30))
    assert np.array(found.values).shape == (30, 40)


async def test_an_encoder_is_not_asked_for_text(context):
    upstream = open_upstream(manifest(embedder_path(), "text-generation"), context)
    async with contextlib.aclosing(upstream.generate(GenerationRequest(model="minilm", prompt="a"))) as deltas:
        with pytest.raises(Unavailable):
            await anext(deltas)
