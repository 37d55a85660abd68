"""How an encoder is compiled and run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moltbot_models.encoder.processor import quickest_float
from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_models.encoder.processor import FloatPrecision

Precision = Literal["auto", "int8", "bf16", "f32"]


class EncoderError(EngineError):
    """A model directory that cannot be loaded."""

    def __init__(self, message: str) -> None:
        super().__init__("MODEL_INVALID", message)


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """How an encoder is compiled and run."""

    precision: Precision = "auto"
    """Arithmetic. `auto` takes BF16 where the processor multiplies it quicker than FP32 (`quickest_float`), and FP32
    elsewhere. BF16 keeps 99.3 to 99.5 % of top-10 neighbours (MiniLM-L6). `int8` runs in INT8 those layers that
    calibration found to bear it (`moltbot_models.encoder.calibrate`), the others as `auto` does."""
    rest: FloatPrecision | None = None
    """What `auto` takes, and layers that are not in INT8; None for what is quickest on this machine."""
    threads: int = 0
    """Of the arithmetic; 0 lets OpenVINO take every core."""
    bucket_tokens: int = 16
    """Lengths that the attention sees are rounded up to a multiple of this, beyond eight of them to coarser steps: few
    shapes, so that OpenVINO compiles its kernels a few times and not per request."""
    batch_texts: int = 16
    """Texts of one run of the model, at most."""
    ranges: Path | None = None
    """What calibration found, for `int8`; None: beside the weights."""

    @property
    def arithmetic(self) -> FloatPrecision:
        """Of the layers that do not run in INT8, on this machine."""
        return self.precision if self.precision in ("bf16", "f32") else self.rest or quickest_float()

    @classmethod
    def of(cls, options: Mapping[str, str], threads: int = 0) -> EncoderConfig:
        """From options, whose values `moltbot_models.triton.repository` has checked.

        Args:
            options: Some of the fields, as texts; others are passed over.
            threads: Where the options do not say it.
        """
        base = cls()
        return cls(
            precision=options.get("precision", base.precision),  # pyright: ignore[reportArgumentType] - checked
            threads=int(options.get("threads", threads)),
            bucket_tokens=int(options.get("bucket_tokens", base.bucket_tokens)),
            batch_texts=int(options.get("batch_texts", base.batch_texts)),
            ranges=Path(options["ranges"]) if options.get("ranges") else None,
        )
