"""Bodies of rankings and classifications are read with their mistakes named, and answered the best first."""

from __future__ import annotations

import json

import pytest

from moltbot_gateway import scoring_request, scoring_response
from moltbot_gateway.ask import Caller, ScoreAsk
from moltbot_gateway.exchange import Exchange
from moltbot_gateway.ranking import best
from moltbot_gateway.scoring_request import RankingWish
from moltbot_mesh.call import ANONYMOUS, TraceContext
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.generation import Scores, Usage

SCORES = Scores(((0.25,), (0.75,), (0.25,)), Usage(9))


def exchange() -> Exchange:
    found = Exchange(Caller(ANONYMOUS, TraceContext.new(sampled=False), "r", "POST /v1/rerank"))
    found.model, found.usage = "judge", Usage(9)
    return found


def test_documents_are_texts_or_objects_with_a_text():
    body = {"query": "q", "documents": ["a", {"text": "b", "title": "not read"}], "top_n": 1, "return_documents": False}
    ask, wish = scoring_request.ranking(json.dumps(body).encode())
    assert (ask.inputs, ask.query, ask.model) == (("a", "b"), "q", "")
    assert wish == RankingWish(1, documents=False)
    assert ask.prompt_bytes() == 4


@pytest.mark.parametrize("given", ["one", ["one", "two"]])
def test_one_text_or_several_are_classified(given):
    ask = scoring_request.classification(json.dumps({"input": given, "model": "m"}).encode())
    assert ask.inputs == ((given,) if isinstance(given, str) else tuple(given))
    assert ask.query is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "q" * 32_769, "documents": ["a"]}, "query"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": ["a", ""]}, r"documents\[1\]"),
        ({"query": "q", "documents": [{"title": "a"}]}, "text"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "q", "documents": ["a"], "moltbot": {"colour": 1}}, "colour"),
        ({"query": "q", "documents": ["a"] * 2049}, "documents"),
    ],
)
def test_a_field_that_is_wrong_is_named(body, field):
    with pytest.raises(InvalidArgument, match=field):
        scoring_request.ranking(json.dumps(body).encode())


@pytest.mark.parametrize("body", [{}, {"input": []}, {"input": [""]}, {"input": [1]}])
def test_texts_that_cannot_be_classified_are_refused(body):
    with pytest.raises(InvalidArgument, match="input"):
        scoring_request.classification(json.dumps(body).encode())


def test_the_best_come_first_and_equals_keep_their_order():
    assert best(SCORES) == [(1, 0.75), (0, 0.25), (2, 0.25)]
    assert best(SCORES, 2) == [(1, 0.75), (0, 0.25)]


@pytest.mark.parametrize("documents", [True, False])
def test_a_ranking_has_the_fields_of_its_clients(documents):
    ask = ScoreAsk("", ("a", "b", "c"), "q")
    tree = json.loads(scoring_response.ranking_body(exchange(), ask, RankingWish(1, documents), SCORES))
    result = {"index": 1, "relevance_score": 0.75} | ({"document": {"text": "b"}} if documents else {})
    assert tree == {"id": "rerank-r", "model": "judge", "usage": {"total_tokens": 9}, "results": [result]}


def test_a_classification_names_the_likeliest_class_and_all_of_them():
    scores = Scores(((0.5, 0.25, 0.25), (0.125, 0.125, 0.75)), Usage(9), ("glad", "sad", "so so"))
    tree = json.loads(scoring_response.classification_body(exchange(), scores))
    assert tree["labels"] == ["glad", "sad", "so so"]
    assert tree["data"] == [
        {"index": 0, "label": "glad", "probs": [0.5, 0.25, 0.25], "num_classes": 3},
        {"index": 1, "label": "so so", "probs": [0.125, 0.125, 0.75], "num_classes": 3},
    ]
    assert tree["usage"]["total_tokens"] == 9
