"""Requests and answers as JSON bytes, for Triton's text models; images and sounds stand behind the JSON as they are.

Standard library alone, because one end runs inside Triton's Python backend. Both ends come from the same installation,
so there are no versions to reconcile.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moltbot_models.generation import (
    Delta,
    GenerationRequest,
    Media,
    Message,
    ResponseFormat,
    Sampling,
    Timing,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def encode_request(request: GenerationRequest, *, stream: bool) -> bytes:
    """A request, and whether pieces of the answer are wanted as they come.

    Of images and sounds the JSON holds their lengths; a line break ends it, and their bytes follow in their order.
    """
    files: list[bytes] = []

    def length(data: object) -> int:
        if not isinstance(data, bytes):
            raise TypeError(f"{type(data).__name__} cannot be sent")
        files.append(data)
        return len(data)

    fields = asdict(request)
    for tool in fields["tools"]:
        if not tool["mesh"]:
            del tool["mesh"]  # a Triton of an earlier release does not know it
    tree = {"request": fields, "stream": stream}
    head = json.dumps(tree, separators=(",", ":"), default=length).encode()
    return b"".join((head, b"\n", *files)) if files else head


def decode_request(data: bytes) -> tuple[GenerationRequest, bool]:
    """The inverse of `encode_request`.

    Raises:
        ValueError: These are not such bytes.
    """
    try:
        head, _, files = data.partition(b"\n")
        tree = json.loads(head)
        rest = _Rest(files)
        fields: dict[str, Any] = dict(tree["request"])
        sampling: dict[str, Any] = dict(fields.pop("sampling"))
        sampling["stop"], sampling["stop_token_ids"] = tuple(sampling["stop"]), tuple(sampling["stop_token_ids"])
        wanted = fields.pop("response_format")
        fields["response_format"] = None if wanted is None else ResponseFormat(**wanted)
        fields["template_options"] = tuple((str(key), value) for key, value in fields["template_options"])
        messages = tuple(_message(message, rest) for message in fields.pop("messages"))
        if rest.left:
            raise ValueError("bytes are left over behind a request")
        tools = tuple(ToolSpec(**tool) for tool in fields.pop("tools"))
        request = GenerationRequest(**fields, messages=messages, tools=tools, sampling=Sampling(**sampling))
        return request, bool(tree["stream"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a request as moltbot encodes it") from error


STATISTICS = b'{"statistics":true}'
"""Sent in the place of a request, it asks for the engine's counters; the answer is JSON of names to numbers."""


def encode_deltas(deltas: Sequence[Delta]) -> bytes:
    """Pieces of an answer; fields that hold nothing are left out."""
    return _dump([_delta_tree(delta) for delta in deltas])


def decode_deltas(data: bytes) -> tuple[Delta, ...]:
    """The inverse of `encode_deltas`.

    Raises:
        ValueError: These are not such bytes.
    """
    try:
        return tuple(_delta(tree) for tree in json.loads(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not deltas as moltbot encodes them") from error


def _dump(tree: object) -> bytes:
    return json.dumps(tree, separators=(",", ":")).encode()


class _Rest:
    """The bytes behind the JSON, taken in order."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._place

    def take(self, length: int) -> bytes:
        if not 0 <= length <= self.left:
            raise ValueError("a request is cut off")
        self._place += length
        return self._data[self._place - length : self._place]


def _message(tree: dict[str, Any], rest: _Rest) -> Message:
    calls = tuple(ToolCall(**call) for call in tree["tool_calls"])
    fields: dict[str, Any] = tree | {"tool_calls": calls, "parts": tuple(_part(part, rest) for part in tree["parts"])}
    return Message(**fields)


def _part(tree: str | dict[str, Any], rest: _Rest) -> str | Media:
    if isinstance(tree, str):
        return tree
    fields: dict[str, Any] = tree | {"data": rest.take(tree["data"])}
    return Media(**fields)


def _delta_tree(delta: Delta) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if delta.text:
        tree["text"] = delta.text
    if delta.reasoning:
        tree["reasoning"] = delta.reasoning
    if delta.tool_calls:
        tree["tool_calls"] = [asdict(call) for call in delta.tool_calls]
    if delta.logprobs:
        tree["logprobs"] = [_logprob_tree(logprob) for logprob in delta.logprobs]
    if delta.finish_reason is not None:
        tree["finish_reason"] = delta.finish_reason
    if delta.usage is not None:
        tree["usage"] = asdict(delta.usage)
    if delta.timing is not None:
        tree["timing"] = asdict(delta.timing)
    return tree


def _delta(tree: dict[str, Any]) -> Delta:
    return Delta(
        text=tree.get("text", ""),
        tool_calls=tuple(ToolCallDelta(**call) for call in tree.get("tool_calls", ())),
        logprobs=tuple(_logprob(logprob) for logprob in tree.get("logprobs", ())),
        finish_reason=tree.get("finish_reason"),
        usage=Usage(**tree["usage"]) if "usage" in tree else None,
        reasoning=tree.get("reasoning", ""),
        timing=Timing(**tree["timing"]) if "timing" in tree else None,
    )


def _logprob_tree(logprob: TokenLogprob) -> list[Any]:
    # A token's bytes may be half a character, which JSON cannot hold.
    token_bytes = base64.b64encode(logprob.token_bytes).decode()
    return [logprob.token, logprob.logprob, token_bytes, [_logprob_tree(other) for other in logprob.top]]


def _logprob(tree: list[Any]) -> TokenLogprob:
    token, value, token_bytes, top = tree
    return TokenLogprob(token, value, base64.b64decode(token_bytes), tuple(_logprob(other) for other in top))
