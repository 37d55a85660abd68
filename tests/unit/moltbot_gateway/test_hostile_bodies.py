"""Bodies written to hurt: each is refused with a short error that is the caller's, never ours."""

from __future__ import annotations

import pytest

from moltbot_gateway import openai_request
from moltbot_mesh.errors import InvalidArgument

LONG = b'"' + b"x" * 1_000_000 + b'"'
DEEP = b"[" * 100_000 + b"]" * 100_000


def with_field(field: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":"hello"}],' + field + b"}"


def function(parameters: bytes) -> bytes:
    return b'"tools":[{"type":"function","function":{"name":"f","parameters":' + parameters + b"}}]"


@pytest.mark.parametrize(
    "body",
    [
        with_field(b'"unknown":' + DEEP),
        with_field(function(DEEP)),
        with_field(function(b'{"a":"\xff"}')),
        with_field(b'"stop":' + LONG),
        with_field(b'"tool_choice":' + LONG),
        with_field(b'"response_format":{"type":' + LONG + b"}"),
        b'{"messages":[{"role":"user","content":[{"type":' + LONG + b"}]}]}",
        with_field(b'"seed":' + b"9" * 100_000),
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    ],
    ids=lambda body: body[45:75].decode(errors="replace"),
)
def test_it_is_refused_in_few_words(body):
    with pytest.raises(InvalidArgument) as raised:
        openai_request.chat(body)
    assert len(raised.value.message) < 600
