from __future__ import annotations

import json

import pytest

from moltbot_gateway import openai_request
from moltbot_gateway.json_body import end_user
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.generation import Message, ResponseFormat, Sampling, ToolCall, ToolSpec

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields):
    return openai_request.chat(json.dumps({"messages": HELLO} | fields).encode())


def refused(read, body: object) -> str:
    with pytest.raises(InvalidArgument) as raised:
        read(json.dumps(body).encode())
    (violation,) = raised.value.violations
    assert raised.value.message.startswith(f"{violation.field}: ")
    return violation.field


def test_the_least_that_can_be_asked():
    ask, wish = chat()
    assert ask.messages == (Message("user", "hello"),)
    assert (ask.model, ask.tool_choice, ask.sampling, ask.prompt) == ("", "auto", Sampling(), None)
    assert (wish.stream, wish.include_usage) == (False, False)


def test_everything_that_can_be_asked():
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    ask, wish = chat(
        model="m", stream=True, stream_options={"include_usage": True}, max_tokens=5, temperature=0.5, top_p=0.9,
        top_k=3, min_p=0.1, frequency_penalty=1, presence_penalty=-1, seed=7, stop=["a", "b"], logprobs=True,
        top_logprobs=2, tools=[tool], tool_choice={"type": "function", "function": {"name": "f"}},
        moltbot={"session": "s", "task_type": "t", "tools": ["*"], "mark": True},
    )  # fmt: skip
    assert ask.sampling == Sampling(5, 0.5, 0.9, 3, 0.1, 1.0, -1.0, 7, ("a", "b"), logprobs=True, top_logprobs=2)
    assert ask.tools == (ToolSpec("f", "d", '{"type": "object"}'),)
    assert (ask.model, ask.tool_choice) == ("m", "f")
    assert (ask.mesh.session, ask.mesh.task_type, ask.mesh.tools, ask.mesh.mark) == ("s", "t", ("*",), True)
    assert (wish.stream, wish.include_usage) == (True, True)


def test_null_is_as_good_as_nothing():
    names = (
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "stop",
        "n",
        "tools",
        "tool_choice",
        "logprobs",
        "moltbot",
    )
    assert chat(**dict.fromkeys(names)) == chat()


def test_fields_nobody_knows_are_ignored():
    assert chat(store=True, future={"x": [1]}) == chat()


@pytest.mark.parametrize(
    ("fields", "found"),
    [({}, ""), ({"user": "u"}, "u"), ({"safety_identifier": "s"}, "s"), ({"user": "u", "safety_identifier": "s"}, "s")],
)
def test_whom_a_request_is_about(fields, found):
    assert end_user(json.dumps({"messages": HELLO} | fields).encode()) == found


def test_the_newer_name_of_the_token_limit_goes_first():
    assert chat(max_tokens=5, max_completion_tokens=7)[0].sampling.max_tokens == 7


@pytest.mark.parametrize(
    ("stop", "found"), [("x", ("x",)), (["x", "y"], ("x", "y")), ("", ()), (["", "x"], ("x",)), ([], ())]
)
def test_stop_texts(stop, found):
    assert chat(stop=stop)[0].sampling.stop == found


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}])[0].messages[0].content == "ab"


def test_a_conversation_with_a_tool():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ask, _ = chat(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
            {"role": "function", "name": "f", "content": "5"},
        ]
    )
    assert ask.messages == (
        Message("assistant", "", tool_calls=(ToolCall("c1", "f", "{}"),)),
        Message("tool", "4", tool_call_id="c1"),
        Message("tool", "5", name="f"),
    )


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choices(choice):
    assert chat(tool_choice=choice)[0].tool_choice == choice


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].function"),
        ({"model": 1}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"n": "1"}, "n"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "code", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"moltbot": {"sesion": "x"}}, "moltbot.sesion"),
        ({"moltbot": {"tools": "calculator"}}, "moltbot.tools"),
    ],
)
def test_a_refused_field_is_named(fields, field):
    assert refused(openai_request.chat, {"messages": HELLO} | fields) == field


def test_a_missing_field_is_named():
    assert refused(openai_request.chat, {}) == "messages"
    assert refused(openai_request.completion, {}) == "prompt"
    assert refused(openai_request.embeddings, {}) == "input"


def test_a_body_that_is_no_object_is_refused():
    assert refused(openai_request.chat, []) == "body"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"model": "\xff"}', b'{"messages": [{"role": "user", "content": "x"}]} x']
)
def test_a_body_that_is_not_json_says_so(body):
    with pytest.raises(InvalidArgument) as raised:
        openai_request.chat(body)
    assert raised.value.reason == "MALFORMED_BODY"


def test_a_text_to_continue():
    ask, _ = openai_request.completion(json.dumps({"prompt": ["once"], "logprobs": 0, "best_of": 1}).encode())
    assert (ask.prompt, ask.messages, ask.tool_choice) == ("once", (), "none")
    assert (ask.sampling.logprobs, ask.sampling.top_logprobs) == (True, 0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_a_completion_cannot_do_is_named(fields, field):
    assert refused(openai_request.completion, {"prompt": "a"} | fields) == field


def test_texts_to_embed():
    ask, as_base64 = openai_request.embeddings(json.dumps({"input": "a", "dimensions": 8}).encode())
    assert (ask.inputs, ask.dimensions, as_base64) == (("a",), 8, False)
    ask, as_base64 = openai_request.embeddings(json.dumps({"input": ["a", "b"], "encoding_format": "base64"}).encode())
    assert (ask.inputs, as_base64) == (("a", "b"), True)


@pytest.mark.parametrize(
    ("given", "field"),
    [(["a", ""], "input[1]"), ([1, 2], "input[0]"), ([["a"]], "input[0][0]"), ([], "input"), ("", "input[0]")],
)
def test_what_cannot_be_embedded_is_named(given, field):
    assert refused(openai_request.embeddings, {"input": given}) == field


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ResponseFormat("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}}},
            ResponseFormat("json_schema", '{"type": "null"}', "n"),
        ),
        ({"structured_outputs": {"regex": "a+"}}, ResponseFormat("regex", "a+")),
        ({"structured_outputs": {"grammar": "start: x"}}, ResponseFormat("grammar", "start: x")),
    ],
)
def test_a_format_of_the_answer_is_passed_on(fields, expected):
    assert chat(**fields)[0].response_format == expected
    prompted = json.dumps({"prompt": "x", **fields}).encode()
    assert openai_request.completion(prompted)[0].response_format == expected
