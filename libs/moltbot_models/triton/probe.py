"""Whether a model in Triton answers: READY in Triton's own words does not say so."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.generation import GenerationRequest, Sampling

if TYPE_CHECKING:
    from moltbot_models.triton.client import TritonClient


async def probe_model(client: TritonClient, task: str, name: str, timeout_s: float) -> None:
    """Ask a model for one token, one vector or one score.

    Raises:
        ValueError: It answered with nothing.
        TritonRefusal: It refused. And as `TritonClient`.
    """
    if task == "embedding":
        vectors, _ = await client.embed(name, ["probe"], timeout_s)
        if vectors.shape[0] != 1 or not 0.9 < float((vectors * vectors).sum()) < 1.1:
            raise ValueError("its vector is empty or not of length 1")
        return
    if task in {"rerank", "classification"}:
        scores, _ = await client.score(name, ["probe"], "probe" if task == "rerank" else None, timeout_s)
        if scores.size < 1 or not np.isfinite(scores).all():
            raise ValueError("it scored nothing")
        return
    request = GenerationRequest(model=name, prompt="a", sampling=Sampling(max_tokens=1, temperature=0.0))
    deltas = client.generate(name, request, stream=False, first_s=timeout_s, idle_s=timeout_s)
    async with contextlib.aclosing(deltas):
        async for piece in deltas:
            if piece and piece[-1].finish_reason is not None:
                return
    raise ValueError("its answer has no end")
