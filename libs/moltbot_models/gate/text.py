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
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine import Candidates, EngineError, SamplingContext, TextEngine

    Progress = Callable[[str, float], None]

STEPS = 16
"""Tokens judged after each text."""
_MOST_TEXTS = 32
"""Of each set: more narrow the figures little and take their time with large vocabularies."""
MOST_BYTES = 1 << 30
"""Of the reference's log-probabilities, which are kept: more is judged in parts, for each of which both are loaded."""
_LOGPROB_BYTES = 4


@dataclass(frozen=True, slots=True)
class TextBounds:
    """What a quantised text model must keep of its reference."""

    kl_mean: float = 0.02
    """Kullback-Leibler divergence from the reference's next-token distribution, nats, mean over tokens."""
    greedy_agreement: float = 0.95
    """Share of tokens at which both find the same one most likely."""
    image_cosine_mean: float = 0.995
    """Of a model that sees: cosine of the rows of images, mean over rows."""


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
    most_bytes: int = MOST_BYTES,
) -> GateReport:
    """Measure a text model. Blocks.

    Args:
        subject: What is judged.
        calibration: Texts to continue, which whoever made the model may have seen.
        held_out: Others.
        bounds: What is demanded; the defaults if None.
        progress: Told what is at work and the share that is done, 0 to 1.
        most_bytes: See `MOST_BYTES`; a text of its own is judged however much it takes.

    Raises:
        EngineError: One of the two cannot be loaded, or fails.
    """
    bounds = bounds or TextBounds()

    def tell(what: str, share: float) -> None:
        if progress is not None:
            progress(what, share)

    sets = {"calibration": calibration[:_MOST_TEXTS], "held_out": held_out[:_MOST_TEXTS]}
    texts = [text for part in sets.values() for text in part]
    watched = _Watched()
    done = 0
    while done < len(texts):
        watched.told = _Reference()
        done += _judged_part(subject, texts, done, watched, most_bytes, tell)
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


def _judged_part(
    subject: TextUnderTest,
    texts: Sequence[str],
    begin: int,
    watched: _Watched,
    most_bytes: int,
    tell: Callable[[str, float], None],
) -> int:
    """Judge as many texts as the reference's distributions leave room for, and return how many that were."""
    whole, ended = len(texts), begin

    def share(done: float) -> float:
        return (begin + done * (ended - begin)) / whole

    tell("loading the reference", share(0))
    engine = subject.load_reference()
    ended = min(whole, begin + max(1, most_bytes // (STEPS * engine.vocabulary * _LOGPROB_BYTES)))
    part = {str(number): texts[number] for number in range(begin, ended)}
    _continued(engine, part, watched.told, lambda done: tell("reference", share(0.05 + 0.45 * done)))
    tell(f"loading {subject.precision}", share(0.5))
    _continued(subject.load(), part, watched, lambda done: tell(subject.precision, share(0.55 + 0.45 * done)))
    return ended - begin


class _Greedy:
    """The half of a hook that changes nothing: all rows are greedy. Source: `SamplerHook`."""

    def choose(
        self,
        candidates: Candidates,  # noqa: ARG002 - all rows are greedy
        contexts: Sequence[SamplingContext],
    ) -> list[int | None]:
        return [None] * len(contexts)


class _Reference(_Greedy):
    """Keeps what the reference thinks of each next token; the key of each text is its request id."""

    def __init__(self) -> None:
        self.logprobs: dict[str, list[NDArray[np.float32]]] = {}

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        for row, context in zip(logits, contexts, strict=True):
            self.logprobs.setdefault(context.request.request_id, []).append(_log_softmax(row))


class _Watched(_Greedy):
    """Measures a model beside what the reference thought, and makes it say what that one said."""

    def __init__(self) -> None:
        self.told = _Reference()
        """Of the texts at hand."""
        self.divergences: dict[str, list[float]] = {}
        self.agreed: dict[str, list[bool]] = {}

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        for row, context in zip(logits, contexts, strict=True):
            key, place = context.request.request_id, context.answered
            mine, theirs = _log_softmax(row), self.told.logprobs[key][place]
            chosen = int(theirs.argmax())
            self.agreed.setdefault(key, []).append(int(mine.argmax()) == chosen)
            weight = np.exp(theirs)
            # Where the reference gives nothing, nothing is lost, whatever the other gives.
            lost = np.where(weight > 0, weight * (theirs - np.maximum(mine, -1e4)), 0.0)
            self.divergences.setdefault(key, []).append(max(0.0, float(lost.sum(dtype=np.float64))))
            row[:] = -np.inf
            row[chosen] = 0.0


def _log_softmax(row: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)


def _continued(
    engine: TextEngine, texts: Mapping[str, str], hook: _Reference | _Watched, tell: Callable[[float], None]
) -> None:
    """Have a model continue texts, by their request ids, greedily and together as when it serves; then close it."""
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
        for key, text in texts.items():
            request = GenerationRequest(model="", prompt=text, sampling=sampling, request_id=key)
            engine.submit(request, on_delta, on_error=end, hook=hook)
        ended.wait()
        if failures:
            raise failures[0]
    finally:
        engine.close()
