"""What a classifier answers has bounds, and they are kept before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.generation import ScoringRequest
from moltbot_models.manifest import Manifest
from moltbot_models.providers.score_limit import MOST_SCORES, check_scores
from moltbot_models.providers.triton import TritonUpstream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.providers.base import Upstream

CLASSES = 4096


def test_as_many_scores_as_fit_are_given() -> None:
    check_scores("m", 2048, 32)
    check_scores("m", MOST_SCORES, 1)
    with pytest.raises(InvalidArgument, match=r"send at most 1,985 texts") as refused:
        check_scores("m", 1986, 33)
    assert refused.value.reason == "ANSWER_TOO_LARGE"


class Client:
    """Stands where Triton's client stands, and counts the texts it is given."""

    def __init__(self) -> None:
        self.texts = 0

    async def labels(self, model: str, timeout_s: float) -> tuple[str, ...]:
        return tuple(f"class {n}" for n in range(CLASSES))

    async def score(
        self, model: str, texts: Sequence[str], query: str | None, timeout_s: float, traceparent: str = ""
    ) -> tuple[object, int]:
        self.texts += len(texts)
        return np.zeros((len(texts), CLASSES), np.float32), len(texts)


async def test_a_triton_is_not_asked_for_more() -> None:
    upstream = TritonUpstream(Manifest("moods", "classification", "triton", endpoint="unix:/nowhere"))
    await upstream.aclose()
    client = Client()
    upstream._client = client
    await refuses_what_is_too_much(upstream)
    assert client.texts == MOST_SCORES // CLASSES


async def refuses_what_is_too_much(upstream: Upstream) -> None:
    fitting = MOST_SCORES // CLASSES
    with pytest.raises(InvalidArgument, match=f"moods: {fitting + 1} texts of 4,096 classes"):
        await upstream.score(ScoringRequest("moods", ("w5",) * (fitting + 1)))
    found = await upstream.score(ScoringRequest("moods", ("w5",) * fitting))
    assert len(found.values) == fitting
