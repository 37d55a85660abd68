"""One output as a row of the registry's table: how it is written and read."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moltbot_watermark.output_kind import OutputKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_watermark.fingerprint import Fingerprint

COLUMNS = (
    "id, tenant, epoch, mark_id, request_id, audit_id, trace_id, model, create_time_s, exact, characters, grams, kind"
)
BY_MARK = (
    f"SELECT {COLUMNS} FROM outputs "  # noqa: S608 - a constant
    "WHERE tenant = ? AND epoch = ? AND mark_id = ? AND mark_id <> 0 AND kind = ? ORDER BY id DESC LIMIT 1"
)
"""The newest output of a mark; it says twice that there is a mark, for the index holds no others."""


@dataclass(frozen=True, slots=True)
class Output:
    """An answer, or what a model thought before it, that was registered."""

    tenant: str
    epoch: int
    mark_id: int
    """0 if it carries no mark."""
    request_id: str
    audit_id: str
    trace_id: str
    model: str
    create_time_s: float
    """Seconds since the Unix epoch."""
    kind: OutputKind = OutputKind.ANSWER


def row_of(output: Output, text: Fingerprint) -> tuple[object, ...]:
    """A row to be entered; it is given its id there."""
    return (
        None, output.tenant, output.epoch, output.mark_id, output.request_id, output.audit_id or None,
        output.trace_id, output.model, output.create_time_s, text.exact, text.characters,
        array("q", sorted(text.grams)).tobytes(), output.kind.value,
    )  # fmt: skip


def is_exact(row: Sequence[Any], text: Fingerprint) -> bool:
    """Whether a text is the output."""
    return row[9] == text.exact


def grams_of(row: Sequence[Any]) -> array[int]:
    """Its grams."""
    return unpacked(row[11])


def unpacked(packed: bytes) -> array[int]:
    """Grams as a row holds them."""
    grams = array("q")
    grams.frombytes(packed)
    return grams


def output_of(row: Sequence[Any]) -> Output:
    """The output."""
    _, tenant, epoch, mark_id, request_id, audit_id, trace_id, model, create_time_s = row[:9]
    return Output(
        str(tenant), int(epoch), int(mark_id), str(request_id), str(audit_id or ""), str(trace_id), str(model),
        float(create_time_s), OutputKind(row[12]),
    )  # fmt: skip
