"""Classifiers and cross-encoders equal transformers' logits; of a pair the document alone is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moltbot_models.encoder import Classifier, Encoder, EncoderConfig, EncoderError
from moltbot_models.engine.config import EngineError
from moltbot_testkit.random_encoder import write_encoder

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = (("w5 w6", "w10 w11 w12 w13"), ("w7", "w40"))
TEXTS = ("w5 w6 w7", "w9")
# Logits of transformers 5.23 (`AutoModelForSequenceClassification`) for the weights of `write_encoder`: TEXTS, PAIRS.
GOLDEN = {
    ("bert", 1): [[-1.561291], [-1.488535], [-1.491252], [-1.543338]],
    ("bert", 3): [
        [-0.692465, 1.111783, 1.918403],
        [-0.619709, 1.082329, 1.90083],
        [-0.622425, 0.847839, 1.817173],
        [-0.674512, 1.184718, 1.915293],
    ],
    ("roberta", 3): [
        [-0.853383, -0.178944, -1.131003],
        [-0.297089, -0.310515, -1.087979],
        [-1.059005, -0.138246, -1.319995],
        [-1.263882, -0.463837, -1.369484],
    ],
    ("xlm-roberta", 1): [[-1.372535], [-0.81624], [-1.578157], [-1.783033]],
}
IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}


def load(path: Path, family: str, labels: int, **changes: object) -> Classifier:
    write_encoder(path, family, labels, **changes)
    return Classifier.load(path, EncoderConfig(threads=1, precision="f32"))


@pytest.mark.parametrize(("family", "labels"), GOLDEN)
def test_logits_of_texts_equal_transformers(tmp_path: Path, family: str, labels: int) -> None:
    scores, tokens = load(tmp_path, family, labels, sentence_transformers=IDENTITY).classify(TEXTS)
    np.testing.assert_allclose(scores, GOLDEN[family, labels][:2], atol=2e-5)
    assert tokens.tolist() == [5, 3]


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_scores_of_pairs_equal_transformers(tmp_path: Path, family: str) -> None:
    model = load(tmp_path, family, 1, sentence_transformers=IDENTITY)
    found = [model.rerank(query, [document])[0] for query, document in PAIRS]
    np.testing.assert_allclose(found, GOLDEN[family, 1][2:], atol=2e-5)


@pytest.mark.parametrize(
    ("labels", "changes", "expected"),
    [
        (1, {}, "sigmoid"),
        (3, {}, "softmax"),
        (3, {"problem_type": "multi_label_classification"}, "sigmoid"),
        (1, {"sentence_transformers": IDENTITY}, "identity"),
    ],
)
def test_scores_are_what_the_config_says(
    tmp_path: Path, labels: int, changes: dict[str, object], expected: str
) -> None:
    scores, _ = load(tmp_path, "bert", labels, **changes).classify(TEXTS)
    logits = np.array(GOLDEN["bert", labels][:2])
    raised = np.exp(logits)
    softmax = raised / raised.sum(1, keepdims=True)
    by_name = {"identity": logits, "sigmoid": 1 / (1 + np.exp(-logits)), "softmax": softmax}
    np.testing.assert_allclose(scores, by_name[expected], atol=2e-5)


def test_an_activation_that_is_not_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="Mish"):
        load(tmp_path, "bert", 1, sentence_transformers={"activation_fn": "torch.nn.modules.activation.Mish"})


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_long_document_is_cut_and_the_query_is_whole(tmp_path: Path, family: str) -> None:
    model = load(tmp_path, family, 1)
    query, words = " ".join(["w5"] * 20), ["w7"] * 500
    scores, tokens = model.rerank(query, [" ".join(words), "w7"])
    limit, special = (64, 3) if family == "bert" else (62, 4)
    assert tokens.tolist() == [limit, 20 + 1 + special]
    fitting, _ = model.rerank(query, [" ".join(words[: limit - special - 20])])
    np.testing.assert_allclose(scores[0], fitting[0], atol=1e-6)


def test_a_query_that_leaves_no_room_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no room") as refused:
        load(tmp_path, "bert", 1).rerank("w5 " * 61, ["w7"])
    assert refused.value.reason == "REQUEST_TOO_LARGE"


def test_many_documents_score_as_each_alone(tmp_path: Path) -> None:
    model = load(tmp_path, "bert", 1)
    documents = [" ".join(f"w{3 + (n * k) % 40}" for k in range(1 + n)) for n in range(30)]
    scores, _ = model.rerank("w5 w6", documents)
    np.testing.assert_allclose(scores, [model.rerank("w5 w6", [one])[0][0] for one in documents], atol=1e-5)
    assert model.rerank("w5", [])[0].shape == (0,)


def test_reranking_with_several_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="one class") as refused:
        load(tmp_path, "bert", 3).rerank("w5", ["w6"])
    assert refused.value.reason == "MODEL_UNSUPPORTED"


@pytest.mark.parametrize("names", [{"0": "a", "2": "b"}, {}, [], {"x": "a"}])
def test_labels_that_cannot_be_are_refused(tmp_path: Path, names: object) -> None:
    with pytest.raises(EncoderError, match="id2label"):
        load(tmp_path, "bert", 2, id2label=names)


def test_pooling_is_what_sentence_transformers_says(tmp_path: Path) -> None:
    write_encoder(tmp_path, "xlm-roberta")
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    found = []
    for mode in ("pooling_mode_mean_tokens", "pooling_mode_cls_token"):
        pooling.write_text(json.dumps({"word_embedding_dimension": 32, mode: True, "pooling_mode_max_tokens": False}))
        found.append(Encoder.load(tmp_path, EncoderConfig(threads=1, precision="f32")).embed(TEXTS)[0])
    assert np.abs(found[0] - found[1]).max() > 0.01
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(EncoderError, match="pooling_mode_max_tokens"):
        Encoder.load(tmp_path, EncoderConfig(threads=1))
