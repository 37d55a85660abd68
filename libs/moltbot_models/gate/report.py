"""What a gate measured and what it demands; stored as JSON beside the model that it judged.

A report knows nothing of how its figures are made: `moltbot_models.gate.encoder` measures vectors, a gate for text its
divergence and agreement, and both hand them in under names of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from moltbot_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Check:
    """One figure and the bound that it must keep."""

    name: str
    """Such as `cosine_mean`."""
    texts: str
    """The set it was measured on: `calibration` or `held_out`."""
    value: float
    bound: float
    sense: Literal["at_least", "at_most"]
    samples: int
    """Texts that the figure is over."""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its bound; one that is not a number never does."""
        if not math.isfinite(self.value):
            return False
        return self.value >= self.bound if self.sense == "at_least" else self.value <= self.bound

    def __str__(self) -> str:
        """The figure and its bound, for people."""
        sense = "at least" if self.sense == "at_least" else "at most"
        return (
            f"{self.name} on {self.samples} {self.texts} texts is {self.value:.6g}, demanded is {sense} {self.bound:g}"
        )


@dataclass(frozen=True, slots=True)
class GateReport:
    """The judgement of one model in one precision."""

    model: str
    """The manifest's id, or the directory's name."""
    model_sha256: str
    """Of the weights."""
    precision: str
    reference: str
    """The precision it is measured against."""
    texts_sha256: str
    """Of all texts (`hash_of`)."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether there are figures and all of them keep their bounds."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def require(self) -> None:
        """Let a model through, or not.

        Raises:
            GateFailed: A figure falls short; the message names each of them and what to do.
        """
        if not self.passed:
            raise GateFailed(self)

    def to_json(self) -> str:
        """The report's text; `passed` stands in it for people and is worked out anew when it is read."""
        tree: dict[str, Any] = {"version": _VERSION, "passed": self.passed, **asdict(self)}
        # JSON has no word for what is not a number.
        for check in tree["checks"]:
            check["value"] = check["value"] if math.isfinite(check["value"]) else None
        return json.dumps(tree, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GateReport:
        """The inverse of `to_json`.

        Raises:
            ValueError: This is not such a text.
        """
        try:
            tree = cast("dict[str, Any]", json.loads(text))
            if tree["version"] != _VERSION:
                raise ValueError(f"a gate report of version {tree['version']!r}; this release reads {_VERSION}")
            return cls(
                model=str(tree["model"]),
                model_sha256=str(tree["model_sha256"]),
                precision=str(tree["precision"]),
                reference=str(tree["reference"]),
                texts_sha256=str(tree["texts_sha256"]),
                checks=tuple(_check(entry) for entry in tree["checks"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a gate report as moltbot writes it: {error}") from error


class GateFailed(FailedPrecondition):
    """A model that answers too far from its reference to be served.

    Attributes:
        report: All figures.
    """

    def __init__(self, report: GateReport) -> None:
        short = "; ".join(str(check) for check in report.checks if not check.passed) or "nothing was measured"
        super().__init__(
            f"model {report.model} in {report.precision} is too far from {report.reference}: {short}. Serve it in "
            f"another precision, calibrate it anew on texts like those it will see, or lower the bound on purpose",
            metadata={"model": report.model, "precision": report.precision},
        )
        self.report = report


def hash_of(*sets: Sequence[str]) -> str:
    """The SHA-256 of sets of texts: it changes with any text, its order and the set it stands in."""
    digest = hashlib.sha256()
    for part in _framed(sets):
        digest.update(part)
    return digest.hexdigest()


def _framed(sets: Iterable[Sequence[str]]) -> Iterable[bytes]:
    for texts in sets:
        yield len(texts).to_bytes(8, "big")
        for text in texts:
            data = text.encode()
            yield len(data).to_bytes(8, "big") + data


def _check(entry: dict[str, Any]) -> Check:
    if entry["sense"] not in {"at_least", "at_most"}:
        raise ValueError("a check's sense is at_least or at_most")
    value = math.nan if entry["value"] is None else float(entry["value"])
    return Check(
        str(entry["name"]), str(entry["texts"]), value, float(entry["bound"]), entry["sense"], int(entry["samples"])
    )
