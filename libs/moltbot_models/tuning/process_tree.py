"""CPU time and memory of a process and all that it started. Linux alone: from /proc."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process and its children, in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK + sum(tree_cpu_s(int(child)) for child in children)


def tree_rss_mib(pid: int) -> int:
    """Proportional memory of a process and its children: what they share counts once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0
    own = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) >> 10
    return own + sum(tree_rss_mib(int(child)) for child in children)
