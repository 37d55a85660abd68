"""Detection: whether the mesh made a text, and which request did.

Two kinds of evidence. A Unicode mark whose MAC verifies proves that the mesh wrote *that mark* for one request; whether
the text around it is the answer, the registered fingerprint says. A fingerprint alone says that the text, or much of
it, is the same as a registered answer, and never who wrote it first. No finding is an answer too: it means insufficient
evidence. What a model thought before it answered is marked and registered like its answer, and said to be that.

Source: Bonferroni correction for the number of keys and readings that were tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from moltbot_watermark import unicode_mark
from moltbot_watermark.fingerprint import MIN_EXACT_CHARACTERS, Fingerprint, fingerprint
from moltbot_watermark.unicode_mark import MAC_BITS

if TYPE_CHECKING:
    from moltbot_watermark.keys import Keyring
    from moltbot_watermark.output_kind import OutputKind
    from moltbot_watermark.output_rows import Output
    from moltbot_watermark.registry import Match, Registry
    from moltbot_watermark.unicode_mark import Frame, Run

_MAX_READINGS = 4096
"""Of all runs of a text together: about a second."""
_MAX_MAC_CHECKS = 1_000_000
"""Of all readings of a text together: about two seconds."""
_MIN_SHARED_GRAMS = 3
_MIN_SHARED_PART = 0.3


class Layer(Enum):
    """How a finding was made."""

    UNICODE = "unicode"
    FINGERPRINT = "fingerprint"


class TextMatch(Enum):
    """How the text stands to the registered answer."""

    UNKNOWN = "unknown"
    """No answer was registered for the mark."""
    EXACT = "exact"
    """The same but for white space, case, compatibility forms and the mark."""
    PARTIAL = "partial"
    """Parts are the same."""
    DIFFERENT = "different"
    """Nothing is the same: the mark may have been copied."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mark or fingerprint."""

    layer: Layer
    tenant: str
    epoch: int
    mark_id: int
    """0 if the answer carries none."""
    request_id: str
    """Empty if it is not known."""
    audit_id: str
    trace_id: str
    model: str
    create_time_s: float
    """When the answer was registered or its mark reserved, seconds since the Unix epoch; 0 if it is not known."""
    text_match: TextMatch
    start: int
    """Of the first paragraph that carries the mark, in code points; 0 for a fingerprint."""
    end: int
    """After the last one."""
    p_value: float
    """Chance that a text without a mark gives this finding, rounded up to a power of ten. NaN for a fingerprint: how
    likely two authors are to write the same cannot be computed."""
    kind: OutputKind


@dataclass(frozen=True, slots=True)
class Detection:
    """What can be said of a text."""

    findings: tuple[Finding, ...]
    """The strongest first; empty means insufficient evidence."""
    complete: bool
    """False if the text holds so many damaged frames that not all were tried."""


@dataclass(slots=True)
class _Mark:
    tenant: str
    epoch: int
    mark_id: int
    kind: OutputKind
    start: int
    end: int


class Detector:
    """Looks at texts.

    Args:
        keyring: The keys that marks are checked with.
        registry: What marks and fingerprints stand for.
        fingerprint_key: Of all registered fingerprints, 32 bytes.
    """

    def __init__(self, keyring: Keyring, registry: Registry, fingerprint_key: bytes) -> None:
        self._keyring = keyring
        self._registry = registry
        self._fingerprint_key = fingerprint_key

    def detect(self, text: str, tenant: str) -> Detection:
        """Look for marks and fingerprints. Takes milliseconds to seconds: call it off the event loop.

        Args:
            text: Any text.
            tenant: Only this tenant's; empty means of all.
        """
        search = _Search(self._keyring, tenant)
        marks = search.marks(text)
        whole = fingerprint(text, self._fingerprint_key)
        p_value = _power_of_ten_above(search.mac_checks / 2**MAC_BITS)
        findings = [self._of_mark(mark, text, whole, p_value) for mark in marks]
        known = {(found.tenant, found.audit_id, found.request_id, found.kind) for found in findings}
        for match in self._registry.similar(whole, tenant):
            output = match.output
            who = (output.tenant, output.audit_id, output.request_id, output.kind)
            if _telling(match, whole) and who not in known:
                how = TextMatch.EXACT if match.exact else TextMatch.PARTIAL
                findings.append(_finding(Layer.FINGERPRINT, output, how, (0, len(text)), math.nan))
        findings.sort(key=_weakness)
        return Detection(tuple(findings), search.complete)

    def _of_mark(self, mark: _Mark, text: str, whole: Fingerprint, p_value: float) -> Finding:
        excerpt = fingerprint(text[mark.start : mark.end], self._fingerprint_key)
        match = self._registry.marked(mark.tenant, mark.epoch, mark.mark_id, mark.kind, (whole, excerpt))
        if match is None:
            request_id, create_time_s = self._registry.request_of(mark.tenant, mark.epoch, mark.mark_id)
            return Finding(
                Layer.UNICODE, mark.tenant, mark.epoch, mark.mark_id, request_id, "", "", "", create_time_s,
                TextMatch.UNKNOWN, mark.start, mark.end, p_value, mark.kind,
            )  # fmt: skip
        how = TextMatch.EXACT if match.exact else TextMatch.PARTIAL if match.shared else TextMatch.DIFFERENT
        return _finding(Layer.UNICODE, match.output, how, (mark.start, mark.end), p_value)


class _Search:
    """The search for marks in one text, within bounds."""

    def __init__(self, keyring: Keyring, tenant: str) -> None:
        self._keyring = keyring
        self._tenant = tenant
        self._keys: dict[int, list[tuple[str, bytes]]] = {}
        self._readings = 0
        self.mac_checks = 0
        self.complete = True

    def marks(self, text: str) -> list[_Mark]:
        """Marks in the order of their first frame, each with the range of all its paragraphs."""
        read: dict[bytes, tuple[str, Frame] | None] = {}
        found: dict[tuple[str, int, int, OutputKind], _Mark] = {}
        for run in unicode_mark.runs(text):
            if run.data not in read:
                read[run.data] = self._read(run)
            verified = read[run.data]
            if verified is None:
                continue
            tenant, frame = verified
            start, end = _paragraph(text, run.start)
            said = (tenant, frame.epoch, frame.mark_id, frame.kind)
            mark = found.setdefault(said, _Mark(*said, start, end))
            mark.end = max(mark.end, end)
        return list(found.values())

    def _read(self, run: Run) -> tuple[str, Frame] | None:
        for frame in unicode_mark.readings(run.data):
            if self._readings >= _MAX_READINGS or self.mac_checks >= _MAX_MAC_CHECKS:
                self.complete = False
                return None
            self._readings += 1
            if frame is None:
                continue
            for tenant, key in self._candidates(frame.epoch):
                self.mac_checks += 1
                if unicode_mark.authentic(frame, key):
                    return tenant, frame
        return None

    def _candidates(self, epoch: int) -> list[tuple[str, bytes]]:
        if epoch not in self._keys:
            epochs = self._keyring.verifying(self._tenant, epoch)
            self._keys[epoch] = [(one.tenant, self._keyring.key(one.tenant, one.epoch, "unicode")) for one in epochs]
        return self._keys[epoch]


def _paragraph(text: str, at: int) -> tuple[int, int]:
    start = text.rfind("\n\n", 0, at)
    end = text.find("\n\n", at)
    return (0 if start < 0 else start + 2), (len(text) if end < 0 else end)


def _telling(match: Match, text: Fingerprint) -> bool:
    """Whether a fingerprint alone is evidence: short or common texts are written by chance."""
    if match.exact:
        return text.characters >= MIN_EXACT_CHARACTERS
    if match.shared < _MIN_SHARED_GRAMS:
        return False
    return match.shared / max(1, min(match.grams, len(text.grams))) >= _MIN_SHARED_PART


def _finding(layer: Layer, output: Output, how: TextMatch, place: tuple[int, int], p_value: float) -> Finding:
    return Finding(
        layer, output.tenant, output.epoch, output.mark_id, output.request_id, output.audit_id, output.trace_id,
        output.model, output.create_time_s, how, *place, p_value, output.kind,
    )  # fmt: skip


_STRENGTH = (TextMatch.EXACT, TextMatch.PARTIAL, TextMatch.UNKNOWN, TextMatch.DIFFERENT)


def _weakness(finding: Finding) -> tuple[bool, int, float]:
    return finding.layer is not Layer.UNICODE, _STRENGTH.index(finding.text_match), -finding.create_time_s


def _power_of_ten_above(probability: float) -> float:
    """Quantised, so that a caller learns little from small changes of a text."""
    return min(1.0, 10.0 ** math.ceil(math.log10(probability))) if probability > 0 else 0.0
