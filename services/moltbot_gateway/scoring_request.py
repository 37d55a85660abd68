"""Bodies of `/v1/rerank` and `/v1/classify` to what is asked.

Source: https://api.jina.ai/redoc#tag/rerank and https://docs.cohere.com/reference/rerank (rerank); vLLM's
`/rerank` and `/classify`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from moltbot_gateway.ask import ScoreAsk
from moltbot_gateway.json_body import MeshFields, ModelId, PersonFields, decode, refused

_MOST_TEXTS = 2048


class _Document(Struct):
    text: str


class _Ranking(PersonFields, kw_only=True):
    # It stands before each document on its way to the model.
    query: Annotated[str, Meta(max_length=32_768)]
    documents: Annotated[list[str | _Document], Meta(min_length=1, max_length=_MOST_TEXTS)]
    model: ModelId = ""
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = True
    moltbot: MeshFields | None = None


class _Classification(PersonFields, kw_only=True):
    input: str | Annotated[list[str], Meta(min_length=1, max_length=_MOST_TEXTS)]
    model: ModelId = ""
    moltbot: MeshFields | None = None


_ranking = msgspec.json.Decoder(_Ranking)
_classification = msgspec.json.Decoder(_Classification)


class RankingWish(Struct, frozen=True):
    """How the client wants its ranking."""

    top_n: int
    """0 means all."""
    documents: bool
    """Whether their texts are repeated."""


def ranking(body: bytes) -> tuple[ScoreAsk, RankingWish]:
    """Read the body of `POST /v1/rerank`.

    Raises:
        InvalidArgument: Not JSON, or a field is missing, of a wrong type or out of range; the violation names it.
    """
    request = decode(_ranking, body)
    texts = tuple(one if isinstance(one, str) else one.text for one in request.documents)
    if not request.query:
        raise refused("query", "must not be empty")
    ask = ScoreAsk(request.model, _full("documents", texts), request.query, _task_type(request.moltbot))
    return ask, RankingWish(request.top_n or 0, request.return_documents is not False)


def classification(body: bytes) -> ScoreAsk:
    """Read the body of `POST /v1/classify`.

    Raises:
        InvalidArgument: As in `ranking`.
    """
    request = decode(_classification, body)
    texts = (request.input,) if isinstance(request.input, str) else tuple(request.input)
    return ScoreAsk(request.model, _full("input", texts), None, _task_type(request.moltbot))


def _full(field: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    for index, text in enumerate(texts):
        if not text:
            raise refused(f"{field}[{index}]", "must not be empty")
    return texts


def _task_type(mesh: MeshFields | None) -> str:
    return mesh.task_type if mesh else ""
