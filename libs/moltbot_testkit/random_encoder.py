"""Writes Hugging Face directories of small encoders with random weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from moltbot_testkit.random_model import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HIDDEN, INNER, LAYERS, HEADS, WORDS, PLACES = 32, 64, 2, 4, 50, 64


def encoder_config(family: str = "bert", labels: int = 0, **changes: Any) -> dict[str, Any]:
    """A small config.json; `labels` of 0 is an encoder without a head."""
    names: dict[str, Any] = {"id2label": {str(n): f"class {n}" for n in range(labels)}} if labels else {}
    stem = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[family]
    names["architectures"] = [stem + ("ForSequenceClassification" if labels else "Model")]
    return {
        "model_type": family, "hidden_act": "gelu", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": WORDS, "pad_token_id": 1,
        "max_position_embeddings": PLACES, "type_vocab_size": 2 if family == "bert" else 1, "layer_norm_eps": 1e-5,
    } | names | changes  # fmt: skip


def encoder_tensors(family: str = "bert", labels: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random tensors under the names of transformers' model of that family."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (PLACES, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2 if family == "bert" else 1, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        linears |= {f"{name}.attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        linears[f"{name}.attention.output.dense"] = (HIDDEN, HIDDEN)
        linears[f"{name}.intermediate.dense"] = (INNER, HIDDEN)
        linears[f"{name}.output.dense"] = (HIDDEN, INNER)
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    heads: dict[str, tuple[int, int]] = {}
    if labels and family == "bert":
        linears["pooler.dense"] = (HIDDEN, HIDDEN)
        heads["classifier"] = (labels, HIDDEN)
    elif labels:
        heads |= {"classifier.dense": (HIDDEN, HIDDEN), "classifier.out_proj": (labels, HIDDEN)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
    prefix = ("bert." if family == "bert" else "roberta.") if labels else ""
    shapes = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    for name, shape in heads.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    draw = np.random.default_rng(0)
    return {name: (draw.standard_normal(shape) * 0.4).astype(np.float32) for name, shape in shapes.items()}


def write_encoder(path: Path, family: str = "bert", labels: int = 0, **changes: Any) -> None:
    """Write config.json, model.safetensors and a tokenizer of the words w3 … w49 with the family's templates."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(encoder_config(family, labels, **changes)))
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2} | {f"w{n}": n for n in range(3, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1" if family == "bert" else "[CLS] $A [SEP] [SEP] $B [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    write_safetensors(path / "model.safetensors", encoder_tensors(family, labels))
