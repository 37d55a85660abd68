from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_models.engine.tool_calls import HermesToolCalls


def parsed(text, cuts=()):
    parser = HermesToolCalls()
    plain, calls = "", {}
    edges = [0, *sorted(cuts), len(text)]
    results = [parser.push(text[begin:end]) for begin, end in pairwise(edges)]
    for piece, deltas in [*results, parser.finish()]:
        plain += piece
        for delta in deltas:
            call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += delta.id
            call["name"] += delta.name
            call["arguments"] += delta.arguments
    return plain, [calls[index] for index in sorted(calls)]


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "}\\"{", "b": [1, {"c": 2}]}}\n</tool_call>'


@given(st.lists(st.integers(0, len(CALL) + 5), max_size=12))
def test_a_call_is_found_however_the_stream_is_cut(cuts):
    plain, (call,) = parsed("Sure." + CALL, cuts)
    assert plain == "Sure."
    assert call["name"] == "add"
    assert json.loads(call["arguments"]) == {"a": '}"{', "b": [1, {"c": 2}]}
    assert call["id"].startswith("call_")


def test_arguments_stream_before_the_call_is_complete():
    parser = HermesToolCalls()
    _, first = parser.push('<tool_call>{"name": "add", "arguments": {"a"')
    _, second = parser.push(": 12")
    assert [delta.name for delta in first if delta.name] == ["add"]
    assert [delta.arguments for delta in second] == [": 12"]


def test_several_calls_have_their_own_index_and_id():
    plain, calls = parsed(CALL + "\n" + CALL + "\n")
    assert plain == ""
    assert len({call["id"] for call in calls}) == 2


def test_arguments_before_the_name_are_understood():
    _, (call,) = parsed('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>')
    assert (call["name"], json.loads(call["arguments"])) == ("add", {"a": 1})


def test_arguments_written_as_a_string_are_passed_on():
    _, (call,) = parsed('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>')
    assert json.loads(call["arguments"]) == {"a": 1}


def test_a_missing_closing_tag_does_not_lose_the_call():
    _, (call,) = parsed(CALL.removesuffix("</tool_call>"))
    assert call["name"] == "add"


@pytest.mark.parametrize(
    "text",
    ["a <tool_ b", "1 < 2\n\nnext", "<tool_call>no json</tool_call> after", "<tool_call>[1]</tool_call>", "end <tool"],
)
def test_what_is_no_call_stays_text(text):
    for cut in range(len(text)):
        assert parsed(text, [cut]) == (text, [])


def test_a_name_that_is_no_json_and_brackets_without_end_are_text():
    parser = HermesToolCalls()
    text = '<tool_call>{"name": "a\\q", "arguments": {}}</tool_call>'
    assert parser.push(text) == (text, [])
    deep = "[" * 100_000
    plain, calls = parser.push(f"<tool_call>{deep}</tool_call>")
    assert (plain, calls) == (f"<tool_call>{deep}</tool_call>", [])
    parser.push(f"<tool_call>{deep}")
    assert parser.finish() == (f"<tool_call>{deep}", [])
