"""Figures for people: a table, and a picture of throughput over latency."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.tuning.load import Figures

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 64
_ROWS, _COLUMNS = 12, 56


def table(levels: Sequence[Figures], unit: str) -> str:
    """One line a level; columns of streams are left out where nothing streams."""
    streams = any(level.first_p50_ms for level in levels)
    head = ["clients", f"{unit}/s", "p50 ms", "p99 ms"]
    head += ["first p50 ms", "gap p50 ms", "gap p99 ms"] if streams else []
    head += [f"CPU ms/{unit.removesuffix('s')}", "MiB", "failed"]
    rows = [head]
    for one in levels:
        row = [str(one.clients), f"{one.units_per_s:.1f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}"]
        row += [f"{one.first_p50_ms:.1f}", f"{one.gap_p50_ms:.1f}", f"{one.gap_p99_ms:.1f}"] if streams else []
        rows.append([*row, f"{one.cpu_ms_per_unit:.2f}", str(one.rss_mib), str(one.failures)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def terminal_plot(levels: Sequence[Figures], unit: str) -> str:
    """Throughput (up) over p99 (right), the number of clients at each point."""
    across, up = _scales(levels)
    grid = [[" "] * (_COLUMNS + 4) for _ in range(_ROWS)]
    for one in levels:
        column = round((_COLUMNS - 1) * one.p99_ms / across)
        row = _ROWS - 1 - round((_ROWS - 1) * one.units_per_s / up)
        for place, char in enumerate(f"●{one.clients}"):
            grid[row][column + place] = char
    lines = [f"{f'{up:.0f}' if row == 0 else '':>9} │{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    axis = f"{'0':>9} └{'─' * _COLUMNS}"
    return "\n".join([f"{unit}/s", *lines, axis, f"{'':>11}0{f'p99 {across:.0f} ms':>{_COLUMNS}}"])


def svg_plot(levels: Sequence[Figures], unit: str, title: str) -> str:
    """The same as an SVG file."""
    across, up = _scales(levels)
    inner_w, inner_h = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN

    def at(one: Figures) -> tuple[float, float]:
        return _MARGIN + inner_w * one.p99_ms / across, _HEIGHT - _MARGIN - inner_h * one.units_per_s / up

    points = [at(one) for one in levels]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/><text x="{x + 7:.1f}" y="{y - 7:.1f}">{one.clients}</text>'
        for (x, y), one in zip(points, levels, strict=True)
    )
    bottom = _HEIGHT - _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="#1b4f72"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_MARGIN}" y="24" font-size="15">{escape(f"{title}: {unit} a second over p99, by clients")}</text>'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{_WIDTH - _MARGIN}" fill="none" stroke="#888"/>'
        f'<text x="{_MARGIN - 8}" y="{_MARGIN + 4}" text-anchor="end">{up:.0f}</text>'
        f'<text x="{_MARGIN - 8}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{bottom + 18}" text-anchor="end">p99 {across:.0f} ms</text>'
        f'<polyline points="{path}" fill="none" stroke="#1b4f72" stroke-width="1.5"/>{marks}</svg>\n'
    )


def _scales(levels: Sequence[Figures]) -> tuple[float, float]:
    """Greatest p99 and throughput; a little where all is nothing."""
    return max(1e-9, *(one.p99_ms for one in levels)), max(1e-9, *(one.units_per_s for one in levels))
