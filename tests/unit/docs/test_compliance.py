"""Each clause of the compliance table is shown by tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs/compliance/mlps-3.md"
ROWS = [line for line in TABLE.read_text("utf-8").splitlines() if re.match(r"\| 8\.", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_clause_is_shown_by_tests_that_are_there(row):
    shown = row.split("|")[4]
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", shown)
    assert any(file for file, _ in named), "no test is named"
    file = ""
    for path, test in named:
        file = path or file
        text = (ROOT / file).read_text("utf-8")
        assert not test or f"def {test}(" in text, f"{file} has no {test}"


def test_every_clause_of_the_design_has_a_row():
    clauses = {row.split("|")[1].strip() for row in ROWS}
    assert len(clauses) == len(ROWS) >= 20
