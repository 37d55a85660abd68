"""The gate of text models: how far the next-token distributions are from those of the same weights in FP32.

Both read the same words: the reference continues each text greedily, and what is judged is made to say the same tokens,
so that one different word early on does not make all that follow incomparable.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.gate.report import Check, GateReport, hash_of
from moltbot_models.generation import Delta, GenerationRequest, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine import Candidates, EngineError, SamplingContext, TextEngine

    Progress = Callable[[str, float], None]

STEPS = 16
"""Tokens judged after each text."""
_MOST_TEXTS = 32
"""Of each set: more narrow the figures little and take their time with large vocabularies."""
_MOST_BYTES = 1 << 30
"""Of the reference's log-probabilities, which are kept."""


@dataclass(frozen=True, slots=True)
class TextBounds:
    """What a quantised text model must keep of its reference."""

    kl_mean: float = 0.02
    """Kullback-Leibler divergence from the reference's next-token distribution, nats, mean over tokens."""
    greedy_agreement: float = 0.95
    """Share of tokens at which both find the same one most likely."""


@dataclass(frozen=True, slots=True)
class TextUnderTest:
    """A text model, and how it is opened."""

    model: str
    model_sha256: str
    precision: str
    """How it is served, in words."""
    load: Callable[[], TextEngine]
    load_reference: Callable[[], TextEngine]
    """The same in FP32. The two are never open at once."""


def judge_text(
    subject: TextUnderTest,
    calibration: Sequence[str],
    held_out: Sequence[str],
    bounds: TextBounds | None = None,
    progress: Progress | None = None,
) -> GateReport:
    """Measure a text model. Blocks.

    Args:
        subject: What is judged.
        calibration: Texts to continue, which whoever made the model may have seen.
        held_out: Others.
        bounds: What is demanded; the defaults if None.
        progress: Told what is at work and the share that is done, 0 to 1.

    Raises:
        EngineError: One of the two cannot be loaded, or fails.
    """
    bounds = bounds or TextBounds()

    def tell(what: str, share: float) -> None:
        if progress is not None:
            progress(what, share)

    sets = {"calibration": calibration[:_MOST_TEXTS], "held_out": held_out[:_MOST_TEXTS]}
    texts = [text for part in sets.values() for text in part]
    tell("loading the reference", 0.0)
    reference = _Watched(None)
    _continued(subject.load_reference, texts, reference, lambda share: tell("reference", 0.05 + 0.45 * share))
    tell(f"loading {subject.precision}", 0.5)
    watched = _Watched(reference)
    _continued(subject.load, texts, watched, lambda share: tell(subject.precision, 0.55 + 0.45 * share))
    checks: list[Check] = []
    begin = 0
    for name, part in sets.items():
        numbers = range(begin, begin + len(part))
        divergences = [value for number in numbers for value in watched.divergences[str(number)]]
        same = [value for number in numbers for value in watched.agreed[str(number)]]
        kl, agreed = float(np.mean(divergences)), float(np.mean(same))
        checks += [
            Check("kl_mean", name, kl, bounds.kl_mean, "at_most", len(part)),
            Check("greedy_agreement", name, agreed, bounds.greedy_agreement, "at_least", len(part)),
        ]
        begin += len(part)
    tell("done", 1.0)
    texts_sha256 = hash_of(sets["calibration"], sets["held_out"])
    return GateReport(subject.model, subject.model_sha256, subject.precision, "f32", texts_sha256, tuple(checks))


class _Watched:
    """A hook that keeps what a model thinks of each next token; beside a reference it says what that one said.

    Source: `SamplerHook`; the key of each text is its request id.
    """

    def __init__(self, reference: _Watched | None) -> None:
        self._reference = reference
        self.logprobs: dict[str, list[NDArray[np.float32]]] = {}
        self.divergences: dict[str, list[float]] = {}
        self.agreed: dict[str, list[bool]] = {}
        self._kept_bytes = 0

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        for row, context in zip(logits, contexts, strict=True):
            key, place = context.request.request_id, len(context.output_tokens)
            mine = _log_softmax(row)
            if self._reference is None:
                self._kept_bytes += mine.nbytes
                if self._kept_bytes > _MOST_BYTES:
                    raise MemoryError("the reference's distributions take too much memory")
                self.logprobs.setdefault(key, []).append(mine)
                continue
            theirs = self._reference.logprobs[key][place]
            chosen = int(theirs.argmax())
            self.agreed.setdefault(key, []).append(int(mine.argmax()) == chosen)
            weight = np.exp(theirs)
            # Where the reference gives nothing, nothing is lost, whatever the other gives.
            told = np.where(weight > 0, weight * (theirs - np.maximum(mine, -1e4)), 0.0)
            self.divergences.setdefault(key, []).append(max(0.0, float(told.sum(dtype=np.float64))))
            row[:] = -np.inf
            row[chosen] = 0.0

    def choose(
        self,
        candidates: Sequence[Candidates],  # noqa: ARG002 - all rows are greedy
        contexts: Sequence[SamplingContext],
    ) -> list[int | None]:
        return [None] * len(contexts)


def _log_softmax(row: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)


def _continued(
    load: Callable[[], TextEngine], texts: Sequence[str], hook: _Watched, tell: Callable[[float], None]
) -> None:
    """Have a model continue all texts greedily, together as when it serves."""
    engine = load()
    try:
        left, ended, failures = len(texts), threading.Event(), list[BaseException]()
        lock = threading.Lock()

        def end(error: EngineError | None = None) -> None:
            nonlocal left
            with lock:
                left -= 1
                if error is not None:
                    failures.append(error)
                tell(1 - left / len(texts))
                if left == 0 or failures:
                    ended.set()

        def on_delta(delta: Delta) -> None:
            if delta.finish_reason is not None:
                end()

        sampling = Sampling(max_tokens=STEPS, temperature=0.0, ignore_eos=True)
        for number, text in enumerate(texts):
            request = GenerationRequest(model="", prompt=text, sampling=sampling, request_id=str(number))
            engine.submit(request, on_delta, on_error=end, hook=hook)
        ended.wait()
        if failures:
            raise failures[0]
    finally:
        engine.close()
