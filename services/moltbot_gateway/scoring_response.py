"""Answers of `/v1/rerank` and `/v1/classify`; the sources are those of `scoring_request`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from moltbot_gateway.openai_response import json_body
from moltbot_gateway.ranking import best, likeliest

if TYPE_CHECKING:
    from moltbot_gateway.ask import ScoreAsk
    from moltbot_gateway.exchange import Exchange
    from moltbot_gateway.scoring_request import RankingWish
    from moltbot_models.generation import Scores


def ranking_body(exchange: Exchange, ask: ScoreAsk, wish: RankingWish, scores: Scores) -> bytes:
    """Documents, the best first."""
    results: list[dict[str, Any]] = []
    for index, score in best(scores, wish.top_n):
        document = {"document": {"text": ask.inputs[index]}} if wish.documents else {}
        results.append({"index": index, **document, "relevance_score": score})
    tokens = {"total_tokens": exchange.usage.prompt_tokens}
    return json_body(
        {"id": f"rerank-{exchange.caller.request_id}", "model": exchange.model, "usage": tokens, "results": results}
    )


def classification_body(exchange: Exchange, scores: Scores) -> bytes:
    """The classes of each text, in the order of the inputs."""
    data = [
        {
            "index": index,
            "label": likeliest(scores, row),
            "probs": row,
            "num_classes": len(row),
        }
        for index, row in enumerate(scores.values)
    ]
    tokens = exchange.usage.prompt_tokens
    return json_body(
        {
            "id": f"classify-{exchange.caller.request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": exchange.model,
            "labels": scores.labels,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )
