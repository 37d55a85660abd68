"""A turn's messages as bytes: msgpack arrays, so a field that is added goes to the end."""

from __future__ import annotations

import msgspec

from moltbot_context.turns import StoredCall, StoredMessage


class _Call(msgspec.Struct, array_like=True):
    id: str
    name: str
    arguments: str


class _Message(msgspec.Struct, array_like=True):
    role: str
    content: str
    name: str
    tool_calls: list[_Call]
    tool_call_id: str


_decoder = msgspec.msgpack.Decoder(list[_Message])


def encode_messages(messages: tuple[StoredMessage, ...]) -> bytes:
    """Messages as they are stored."""
    return msgspec.msgpack.encode(
        [
            _Message(
                m.role, m.content, m.name, [_Call(c.id, c.name, c.arguments) for c in m.tool_calls], m.tool_call_id
            )
            for m in messages
        ]
    )


def decode_messages(body: bytes) -> tuple[StoredMessage, ...]:
    """Stored messages."""
    return tuple(
        StoredMessage(
            m.role,
            m.content,
            m.name,
            tuple(StoredCall(c.id, c.name, c.arguments) for c in m.tool_calls),
            m.tool_call_id,
        )
        for m in _decoder.decode(body)
    )
