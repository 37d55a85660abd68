"""The encoder equals BERT written out in numpy, whatever stands in its batch."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from moltbot_models.encoder import Encoder, EncoderConfig, EncoderError
from moltbot_testkit.random_model import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN, INNER, LAYERS, HEADS, WORDS, PLACES = 32, 64, 2, 4, 50, 64
TEXTS = ["w5", "", *(" ".join(f"w{3 + n % 40}" for n in range(length)) for length in (40, 3, 15, 17, 1, 30, 9, 9, 200))]


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (PLACES, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        linears = {f"attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (HIDDEN, HIDDEN)}
        linears |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
        for part, shape in linears.items():
            shapes |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (HIDDEN,), f"{norm}.bias": (HIDDEN,)}
    return {name: (draw.standard_normal(shape) * 0.4).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    config = {
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": WORDS,
        "max_position_embeddings": PLACES, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2} | {f"w{n}": n for n in range(3, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    write_safetensors(path / "model.safetensors", tensors())
    return path


def expected(text: str) -> np.ndarray:
    """BERT of one text alone, in float64."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return unit * t[f"{name}.weight"] + t[f"{name}.bias"]

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    ids = [0, *(int(word[1:]) for word in text.split()[: PLACES - 2]), 1]
    kind = t["embeddings.token_type_embeddings.weight"][0]
    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)] + kind
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = (split(linear(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(HIDDEN / HEADS)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        out = linear(mixed.transpose(1, 0, 2).reshape(len(ids), HIDDEN), f"{name}.attention.output.dense")
        x = norm(x + out, f"{name}.attention.output.LayerNorm")
        inner = linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.fixture(scope="module")
def encoder(directory: Path) -> Encoder:
    return Encoder.load(directory, EncoderConfig(threads=1, precision="f32"))


def test_vectors_equal_bert_in_numpy_for_each_text_of_a_mixed_batch(encoder: Encoder) -> None:
    vectors, _ = encoder.embed(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.stack([expected(text) for text in TEXTS]), atol=1e-5)


def test_tokens_are_counted_after_the_cut_at_the_models_limit(encoder: Encoder) -> None:
    vectors, counts = encoder.embed_counted(TEXTS)
    assert counts.tolist() == [min(len(text.split()) + 2, PLACES) for text in TEXTS]
    assert encoder.embed(TEXTS)[1] == counts.sum()
    assert vectors.shape == (len(TEXTS), encoder.dimensions)


def test_of_a_huge_text_no_more_is_read_than_the_model_can_take(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Tokenizing:
        def encode_batch(self, texts: list[str]) -> object:
            read.extend(map(len, texts))
            return tokenizer.encode_batch(texts)

    tokenizer = encoder._tokenizer
    monkeypatch.setattr(encoder, "_tokenizer", Tokenizing())
    text = " ".join(f"w{3 + n % 40}" for n in range(200))
    vectors, counts = encoder.embed_counted([text + " w5" * 1_000_000, text])
    assert read == [64 * PLACES, len(text)]
    assert counts.tolist() == [PLACES, PLACES]
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    vectors, tokens = encoder.embed([])
    assert vectors.shape == (0, HIDDEN)
    assert tokens == 0


def test_a_model_of_another_kind_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(EncoderError, match="BERT"):
        Encoder.load(tmp_path)


def test_damaged_weights_are_named(directory: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        Encoder.load(tmp_path)
