from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from llguidance import LLMatcher

from moltbot_tool.builtin.calculator import calculate
from moltbot_tool.builtin.clock import time_in
from moltbot_tool.builtin.sql_lookup import lookup, sql_lookup
from moltbot_tool.builtin.units import _UNITS, convert
from moltbot_tool.module import builtin_tools
from moltbot_tool.settings import ToolSettings
from moltbot_tool.tools import ToolFailure

NUMBERS = st.integers(0, 10**6).map(str) | st.decimals(0, 1000, places=3, allow_nan=False).map(lambda d: format(d, "f"))
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda e: f"(-{e})")
    ),
    max_leaves=4,
)


def exact(expression: str) -> Fraction:
    """By Python's own evaluation, each number a Fraction."""
    words = expression.replace("(", " ( ").replace(")", " ) ").replace("-", " - ").split()
    made = [f"Fraction('{word}')" if word[0].isdigit() else word for word in words]
    return Fraction(eval(" ".join(made)))


class TestCalculator:
    @given(EXPRESSIONS)
    def test_sums_and_products_are_exact(self, expression):
        value = exact(expression)
        assume(abs(value) < 10**15)
        # 15 digits are shown where the value is not whole.
        assert Fraction(calculate(expression)) == pytest.approx(float(value), rel=1e-14)
        if value.denominator == 1:
            assert calculate(expression) == str(value)

    @given(st.integers(-(10**27), 10**27), st.integers(-(10**6), 10**6).filter(bool))
    def test_whole_division_and_remainder_are_pythons(self, a, b):
        assert calculate(f"({a}) // ({b})") == str(a // b)
        assert calculate(f"({a}) % ({b}) + 0") == str(a % b)

    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("2 + 2 =", "4"),
            ("0.1 + 0.2", "0.3"),
            ("1 / 3", "0.333333333333333"),
            ("2^10", "1024"),
            ("2 \N{MULTIPLICATION SIGN} 3 ÷ 4 \N{MINUS SIGN} 1", "0.5"),
            ("20% * 50", "10"),
            ("10 % 3", "1"),
            ("12345678901234567.5 * 2", "24691357802469135"),
            ("0 * -1", "0"),
            ("sqrt(16) + max(1, 2, 3) + min(4, 5) + abs(-1) + round(2.5) + floor(1.9) + ceil(1.1)", "17"),
            ("2 * pi", "6.28318530717959"),
            ("10 ** 20", "100000000000000000000"),
            ("1e3", "1000"),
        ],
    )
    def test_examples(self, expression, value):
        assert calculate(expression) == value

    @pytest.mark.parametrize(
        "expression",
        [
            "", "x", "1 +", "__import__('os')", "(1).real", "[1]", "'a'", "True", "1 < 2", "1 if 1 else 2", "lambda: 1",
            "f(1)", "sqrt(1, 2)", "max()", "round(1, ndigits=1)", "1 / 0", "1 // 0", "1 % 0", "0 / 0", "sqrt(-1)",
            "ln(0)", "9**9**9", "10 ** 1001", "1e99999 * 1e99999", "1e999999", "exp(1e9)", "1j", "a := 1",
            "(" * 300 + "1" + ")" * 300, "1" * 501, "\x00",
        ],
    )  # fmt: skip
    def test_everything_else_is_a_failure_for_the_model(self, expression):
        with pytest.raises(ToolFailure):
            calculate(expression)


class TestClock:
    NOW = datetime(2026, 1, 31, 5, 5, 9, tzinfo=UTC)

    def test_it_tells_the_time_in_a_zone(self):
        assert time_in("Asia/Tokyo", self.NOW) == "2026-01-31 14:05:09 JST (UTC+09:00), Saturday"
        assert time_in("utc", self.NOW) == "2026-01-31 05:05:09 UTC (UTC+00:00), Saturday"
        assert "(UTC-03:30)" in time_in("America/St Johns", self.NOW)

    @pytest.mark.parametrize("zone", ["Mars", "../../etc/passwd", "/etc/passwd", "Europe", "\x00", "Tokyo"])
    def test_another_name_is_a_failure(self, zone):
        with pytest.raises(ToolFailure, match="no time zone"):
            time_in(zone, self.NOW)

    def test_a_city_is_enough_for_a_hint(self):
        with pytest.raises(ToolFailure, match="did you mean Asia/Tokyo"):
            time_in("tokyo", self.NOW)


class TestUnits:
    @pytest.mark.parametrize(
        ("value", "source", "target", "text"),
        [
            ("5", "miles", "kilometers", "8.04672 kilometers"),
            ("100", "C", "fahrenheit", "212 fahrenheit"),
            ("0", "kelvin", "°C", "-273.15 °C"),
            ("1", "GiB", "bytes", "1073741824 bytes"),
            ("36", "km/h", "m/s", "10 m/s"),
            ("1", "Nautical Mile", "m.", "1852 m."),
        ],
    )
    def test_examples(self, value, source, target, text):
        assert convert(Decimal(value), source, target) == text

    @pytest.mark.parametrize(("source", "target"), [("miles", "kg"), ("C", "m"), ("parsec", "m"), ("m", "K")])
    def test_what_does_not_go_together_is_a_failure(self, source, target):
        with pytest.raises(ToolFailure):
            convert(Decimal(1), source, target)

    @given(st.decimals(-1000, 1000, places=2), st.sampled_from(sorted(_UNITS)), st.sampled_from(sorted(_UNITS)))
    def test_there_and_back_is_where_it_began(self, value, source, target):
        assume(_UNITS[source][0] == _UNITS[target][0])
        there = Decimal(convert(value, source, target).split()[0])
        back = Decimal(convert(there, target, source).split()[0])
        assert float(back) == pytest.approx(float(value), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("tool", builtin_tools(ToolSettings()), ids=lambda tool: tool.name)
def test_a_grammar_can_be_made_of_every_schema(tool):
    # Else the engine lets any object through: only numbers below 1e19 can be bounded, for example.
    text = json.dumps(tool.parameters)
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(text)) == ""


class TestSqlLookup:
    TABLES = {"people": ["id", "name"], "empty": ["id"], "wrong": ["id", "nope"], "view": ["name"]}  # noqa: RUF012

    @pytest.fixture
    def database(self, tmp_path):
        path = tmp_path / "what? #1 100%.db"
        db = sqlite3.connect(path)
        db.executescript(
            "CREATE TABLE people (id INTEGER, name TEXT, secret TEXT);"
            "CREATE TABLE hidden (id INTEGER); CREATE TABLE empty (id INTEGER); CREATE TABLE wrong (id INTEGER);"
            "CREATE VIEW view AS SELECT secret AS name FROM people;"
            "INSERT INTO people VALUES (1, 'Ada', 's1'), (2, 'Bob', 's2'), (3, 'Bob', 's3');"
            "INSERT INTO wrong VALUES (1);"
        )
        db.close()
        return path

    def find(self, database, table, column, value, most=10):
        return lookup(database, self.TABLES, table, column, value, max_rows=most)

    def test_rows_show_the_allowed_columns_alone(self, database):
        assert json.loads(self.find(database, "people", "id", "1")) == [{"id": 1, "name": "Ada"}]
        assert len(json.loads(self.find(database, "people", "name", "Bob"))) == 2
        assert len(json.loads(self.find(database, "people", "name", "Bob", 1))) == 1

    def test_no_rows_is_no_failure(self, database):
        assert self.find(database, "empty", "id", "1") == "no rows"

    @pytest.mark.parametrize("value", ["' OR 1=1 --", "1; DROP TABLE people", '" OR ""="'])
    def test_a_value_is_only_ever_a_value(self, database, value):
        assert self.find(database, "people", "name", value) == "no rows"

    @pytest.mark.parametrize(
        ("table", "column"),
        [
            ("hidden", "id"), ("sqlite_master", "sql"), ("people", "secret"), ("people", "rowid"),
            ("people", 'name" OR "1'), ("people; DROP TABLE people", "id"), ("wrong", "nope"), ("view", "name"),
        ],
    )  # fmt: skip
    def test_everything_else_is_refused(self, database, table, column):
        with pytest.raises(ToolFailure) as raised:
            self.find(database, table, column, "nope")
        assert "s1" not in str(raised.value)

    def test_its_schema_names_the_tables_and_columns_that_are_there(self, database):
        properties = sql_lookup(database, self.TABLES, 10).parameters["properties"]
        assert properties["table"]["enum"] == ["empty", "people", "view", "wrong"]
        assert properties["column"]["enum"] == ["id", "name", "nope"]

    @pytest.mark.parametrize(("tables", "offered"), [({}, False), ({"people": []}, False), ({"people": ["id"]}, True)])
    def test_without_a_table_to_read_it_is_not_offered(self, database, tables, offered):
        tools = builtin_tools(ToolSettings(sql_database=database, sql_tables=tables))
        assert ("sql_lookup" in [tool.name for tool in tools]) is offered

    def test_a_database_that_is_not_there_is_not_made(self, tmp_path):
        with pytest.raises(ToolFailure, match="cannot be read"):
            self.find(tmp_path / "none.db", "people", "id", "1")
        assert list(tmp_path.iterdir()) == []
