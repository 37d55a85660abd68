"""The accuracy gate of `model add`: calibration for INT8, the judgement, and what is said of it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_daemon.commands.model_arguments import pairs
from moltbot_daemon.commands.shell import tell
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.engine.config import EngineError
from moltbot_models.gate.texts import GateTexts, read_texts, shipped_texts
from moltbot_models.store.catalogue import RANGES
from moltbot_models.store.lock import digest_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from moltbot_models.gate.report import GateReport
    from moltbot_models.manifest import Manifest

_INTERVAL_S = 0.2


def calibrated(manifest: Manifest, folder: Path, args: argparse.Namespace) -> Manifest:
    """The manifest with the ranges that INT8 needs; they are measured now unless the user names a file of them.

    Raises:
        InvalidArgument: The model cannot be loaded.
    """
    if manifest.task == "text-generation" or manifest.options.get("precision") != "int8":
        return manifest
    if manifest.options.get("ranges"):
        return manifest
    from moltbot_models.encoder.calibrate import calibrate, write_ranges  # noqa: PLC0415 - brings OpenVINO

    tell(f"moltbot: calibrating {manifest.id}")
    texts, threads = texts_of(args.gate_texts), int(manifest.options.get("threads", "0"))
    try:
        ranges = calibrate(
            Path(manifest.path), texts.calibration, task=manifest.task, threads=threads, progress=told_of_gate()
        )
    except EngineError as error:
        raise InvalidArgument(f"{manifest.path}: {error}", reason="MODEL_UNSUPPORTED") from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Named by its content: other ranges are other options, and so another revision of the model.
    file = folder / f"{RANGES}-{hashlib.sha256(ranges.to_json().encode()).hexdigest()[:16]}.json"
    write_ranges(file, ranges)
    return dataclasses.replace(manifest, options={**manifest.options, "ranges": str(file)})


def judged(manifest: Manifest, hashes: Mapping[str, str], args: argparse.Namespace) -> GateReport | None:
    """Judge a local model as it would be served; None if it is its own reference, or the user wants no gate.

    Raises:
        InvalidArgument: The model cannot be loaded, or a bound or a text file cannot be used.
    """
    if not args.gate:
        return None
    from moltbot_models.gate.judge import bounds_of, judge  # noqa: PLC0415 - brings numpy

    bounds = bounds_of(manifest.task, pairs("--bound", args.bound))
    try:
        return judge(manifest, digest_of(hashes), texts_of(args.gate_texts), bounds, told_of_gate())
    except EngineError as error:
        raise InvalidArgument(f"{manifest.path}: {error}", reason="MODEL_UNSUPPORTED") from None


def texts_of(file: Path | None) -> GateTexts:
    """The user's texts, or those that come with the project."""
    return read_texts(file) if file else shipped_texts()


def told_of_gate() -> Callable[[str, float], None]:
    """Progress of the gate on a terminal."""
    last = [0.0]

    def told(what: str, share: float) -> None:
        if sys.stderr.isatty() and (time.monotonic() - last[0] > _INTERVAL_S or share >= 1):
            last[0] = time.monotonic()
            end = "\n" if share >= 1 else ""
            print(f"\rgate: {what:<48.48} {share:4.0%}", end=end, file=sys.stderr, flush=True)  # noqa: T201 - progress

    return told
