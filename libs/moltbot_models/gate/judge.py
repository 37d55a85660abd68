"""Judges a model as its manifest would serve it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.encoder import EncoderConfig
from moltbot_models.engine.config import EngineConfig, EngineError
from moltbot_models.engine.options import config_of
from moltbot_models.gate.encoder import EncoderBounds, EncoderUnderTest, judge_encoder
from moltbot_models.gate.images import judge_images
from moltbot_models.gate.scores import ClassifierUnderTest, ScoreBounds, judge_scores
from moltbot_models.gate.text import TextBounds, TextUnderTest, judge_text
from moltbot_models.manifest import engine_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from moltbot_models.encoder import Encoder
    from moltbot_models.gate.report import GateReport
    from moltbot_models.gate.texts import GateTexts
    from moltbot_models.manifest import Manifest

    Progress = Callable[[str, float], None]

_BOUNDS: Mapping[str, type[EncoderBounds | ScoreBounds | TextBounds]] = {
    "embedding": EncoderBounds,
    "rerank": ScoreBounds,
    "classification": ScoreBounds,
    "text-generation": TextBounds,
}
_CACHE_BYTES = 128 << 20


def bounds_of(task: str, given: Mapping[str, str]) -> Any:
    """The bounds of a task, some of them set.

    Args:
        task: Of the manifest.
        given: Numbers as texts, by the names of the checks.

    Raises:
        InvalidArgument: There is no such bound, or it is no number.
    """
    kind = _BOUNDS[task]
    known = {field.name for field in dataclasses.fields(kind)} - {"k"}
    values: dict[str, Any] = {}
    for name, text in given.items():
        field = "top_k_agreement" if name == "top_10_agreement" else name
        if field not in known:
            raise InvalidArgument(f"--bound {name}: no such check; for {task} there are {', '.join(sorted(known))}")
        try:
            values[field] = float(text)
        except ValueError:
            raise InvalidArgument(f"--bound {name}: {text!r} is not a number") from None
    return kind(**values)


def judge(
    manifest: Manifest, digest: str, texts: GateTexts, bounds: Any, progress: Progress | None = None
) -> GateReport | None:
    """Judge a local model as it would be served. Blocks, and takes the memory of the model in FP32.

    Args:
        manifest: Names a directory.
        digest: Of the model's files.
        texts: What it is judged on.
        bounds: Of `bounds_of`.
        progress: Told what is at work and the share that is done.

    Returns:
        The report; None for a model that is served as its own reference.

    Raises:
        EngineError: It cannot be loaded, or its reference takes more memory than there is.
    """
    path, options = Path(manifest.path), engine_options(manifest)
    if manifest.task == "text-generation":
        return _text(manifest, digest, texts, bounds, progress)
    from moltbot_models.encoder import Classifier, Encoder  # noqa: PLC0415 - brings OpenVINO

    # The coarsest that it becomes, here or on another machine of the mesh.
    config = dataclasses.replace(EncoderConfig.of(options), rest="bf16")
    if config.precision == "f32":
        return None
    precision = config.arithmetic if config.precision == "auto" else config.precision
    exact = dataclasses.replace(config, precision="f32")
    if manifest.task == "embedding":
        subject = EncoderUnderTest(
            manifest.id,
            digest,
            precision,
            _vectors(Encoder.load(path, config)),
            _vectors(Encoder.load(path, exact)),
        )
        return judge_encoder(subject, texts.calibration, texts.held_out, bounds, progress)
    pair = ClassifierUnderTest(
        manifest.id, digest, precision, Classifier.load(path, config), Classifier.load(path, exact)
    )
    return judge_scores(pair, texts.calibration, texts.held_out, bounds, progress)


def _vectors(encoder: Encoder) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    return lambda texts: encoder.embed(texts)[0]


def _text(
    manifest: Manifest, digest: str, texts: GateTexts, bounds: TextBounds, progress: Progress | None
) -> GateReport | None:
    from moltbot_models.engine import TextEngine  # noqa: PLC0415 - brings OpenVINO

    path = Path(manifest.path)
    # Eyes are judged by themselves: their matrices are never compressed, what counts is the arithmetic.
    config = dataclasses.replace(
        config_of(engine_options(manifest)), kv_cache_bytes=_CACHE_BYTES, max_queue=256, encodes_images=False
    )
    if (config.weights, config.compute, config.kv) == ("f32", "f32", "f32"):
        return None
    if not [*path.glob("*.safetensors")]:
        return None  # an IR has its weights' precision already; there is nothing to compare it with
    exact = EngineConfig(
        weights="f32", compute="f32", kv="f32", threads=config.threads, kv_cache_bytes=_CACHE_BYTES,
        context_length=config.context_length, encodes_images=False,
    )  # fmt: skip

    def reference() -> TextEngine:
        try:
            return TextEngine.load(path, exact)
        except EngineError as error:
            if error.reason != "MODEL_TOO_LARGE":
                raise
            raise EngineError(
                "MODEL_TOO_LARGE",
                f"the accuracy gate needs the model in FP32 beside it: {error}; judge it on a larger machine, or add "
                "it with --no-gate",
            ) from None

    described = f"{config.weights} weights, {config.compute} arithmetic, {config.kv} cache"
    subject = TextUnderTest(manifest.id, digest, described, lambda: TextEngine.load(path, config), reference)
    report = judge_text(subject, texts.calibration, texts.held_out, bounds, progress)
    seen = judge_images(path, config, bounds.image_cosine_mean)
    return dataclasses.replace(report, checks=(*report.checks, *seen))
