"""`audit gaps`: what producers counted and the log does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_audit.event import numbered
from moltbot_audit.gaps import find_gaps
from moltbot_daemon.commands.shell import FOUND_DAMAGE, OK, Shell
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from moltbot_audit.gaps import EpochGaps, GapReport

_MOST_RANGES = 20


def gaps(shell: Shell) -> int:
    """Compare what producers counted with what is in the log, with or without the daemon."""
    directory = shell.args.path or shell.places.data_dir / "audit" / "log"
    if not (directory / "segments").is_dir():
        raise InvalidArgument(f"{directory}: no audit log; name its directory, or the right --data-dir")
    report = find_gaps(directory, numbered)
    shell.show(_tree(report), "\n".join([*map(_line, report.epochs), *report.problems, _summary(report)]))
    return OK if report.ok else FOUND_DAMAGE


def _tree(report: GapReport) -> dict[str, object]:
    return {
        "records": report.records,
        "missing": report.lost,
        "undeclared": report.undeclared,
        "twice": sum(epoch.twice for epoch in report.epochs),
        "problems": list(report.problems),
        "epochs": [
            {
                "producer_id": epoch.producer_id,
                "service": epoch.service,
                "instance": epoch.instance,
                "epoch": epoch.epoch,
                "first": epoch.first,
                "last": epoch.last,
                "missing": [list(found) for found in epoch.missing],
                "declared": epoch.declared,
                "undeclared": epoch.undeclared,
                "twice": epoch.twice,
                "open_from": epoch.open_from,
            }
            for epoch in report.epochs
        ],
    }


def _line(epoch: EpochGaps) -> str:
    said = [f"counters {epoch.first} to {epoch.last}"]
    if epoch.missing:
        ranges = [str(first) if first == last else f"{first}-{last}" for first, last in epoch.missing[:_MOST_RANGES]]
        more = f" and {len(epoch.missing) - _MOST_RANGES} more ranges" if len(epoch.missing) > _MOST_RANGES else ""
        said.append(f"missing {', '.join(ranges)}{more}")
        said.append(f"{epoch.declared} declared" + (f", {epoch.undeclared} NOT DECLARED" if epoch.undeclared else ""))
    else:
        said.append("missing none")
    if epoch.open_from:
        said.append(f"declared: its end was lost, from some counter after {epoch.open_from - 1} on")
    if epoch.twice:
        said.append(f"{epoch.twice} STAND TWICE")
    return f"{epoch.service} {epoch.instance}, producer {epoch.producer_id}, epoch {epoch.epoch}: {'; '.join(said)}"


def _summary(report: GapReport) -> str:
    if not report.ok:
        twice = sum(epoch.twice for epoch in report.epochs)
        return (
            f"FOUND: {report.lost} missing, {report.undeclared} of them declared by nobody; {twice} stand twice; "
            f"{len(report.problems)} damaged places"
        )
    missing = f"{report.lost} missing, all of them declared" if report.lost else "none missing"
    return f"{report.records} records of {len(report.epochs)} epochs: {missing}"
