from __future__ import annotations

import json
import threading

import pytest

from moltbot_mesh.errors import DeadlineExceeded, InvalidArgument, NotFound
from moltbot_tool.tools import Registry, Tool, ToolFailure

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}, "deep": {}},
    "required": ["n"],
    "additionalProperties": False,
}


def tool(name: str, run=lambda arguments: str(arguments["n"]), **rest) -> Tool:
    return Tool(name, "says a number", SCHEMA, run, **rest)


def registry(*tools: Tool, **tenants: list[str]) -> Registry:
    return Registry(tools, tenants, 256)


async def test_a_tool_runs_on_arguments_that_match():
    result = await registry(tool("a")).call("acme", "a", '{"n": 4}')
    assert (result.content, result.failed) == ("4", False)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ("{}", "arguments"),
        ("", "arguments"),
        ('{"n": "4"}', "arguments.n"),
        ('{"n": -1}', "arguments.n"),
        ('{"n": 1, "x": 1}', "arguments"),
        ("[]", "arguments"),
        ("{", "arguments"),
    ],
)
async def test_arguments_that_do_not_match_are_named(arguments, place):
    with pytest.raises(InvalidArgument) as raised:
        await registry(tool("a")).call("acme", "a", arguments)
    assert [violation.field for violation in raised.value.violations] == [place]


@pytest.mark.parametrize("depth", [40, 100_000])
async def test_arguments_nested_too_deep_are_refused(depth):
    with pytest.raises(InvalidArgument):
        await registry(tool("a")).call("acme", "a", '{"n": 1, "deep": ' + "[" * depth + "]" * depth + "}")


async def test_a_tool_that_failed_tells_the_model():
    def fail(_):
        raise ToolFailure("no such city")

    result = await registry(tool("a", fail)).call("acme", "a", '{"n": 1}')
    assert (result.content, result.failed) == ("error: no such city", True)


async def test_a_tool_that_takes_too_long_is_given_up():
    over = threading.Event()
    try:
        with pytest.raises(DeadlineExceeded, match="the tool a took longer"):
            await registry(tool("a", lambda _: over.wait(60), timeout_s=0.02)).call("acme", "a", '{"n": 1}')
    finally:
        over.set()


async def test_a_long_result_is_cut_and_says_so():
    result = await registry(tool("a", lambda _: "猫" * 1000)).call("acme", "a", '{"n": 1}')
    assert result.content == "猫" * 85 + " … (cut)"


async def test_a_tenant_that_is_named_may_call_its_tools_alone():
    there = registry(tool("b"), tool("a"), acme=["b"], nobody=[])
    assert [t.name for t in there.tools("acme")] == ["b"]
    assert [t.name for t in there.tools("other")] == ["a", "b"]
    assert there.tools("nobody") == []
    with pytest.raises(NotFound, match="there are: b") as raised:
        await there.call("acme", "a", json.dumps({"n": 1}))
    assert raised.value.reason == "TOOL_NOT_FOUND"


def test_two_tools_of_one_name_are_a_defect():
    with pytest.raises(ValueError, match="'a'"):
        registry(tool("a"), tool("a"))
