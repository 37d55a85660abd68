"""Requests to Triton's text models, there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moltbot_models.generation import GenerationRequest, Media, Message, Sampling, ToolCall
from moltbot_models.wire import decode_request, encode_request

_media = st.builds(Media, st.sampled_from(["image", "audio"]), st.binary(max_size=64), st.just("image/png"))
_messages = st.builds(
    Message,
    st.sampled_from(["user", "assistant"]),
    st.text(max_size=20),
    tool_calls=st.lists(st.builds(ToolCall, st.text(), st.text(), st.text()), max_size=2).map(tuple),
    parts=st.lists(st.text(max_size=20) | _media, max_size=4).map(tuple),
)


@given(st.lists(_messages, max_size=3).map(tuple), st.booleans())
def test_a_request_arrives_as_it_was_sent(messages: tuple[Message, ...], stream: bool) -> None:
    request = GenerationRequest("m", messages, sampling=Sampling(stop=("a",), stop_token_ids=(1,)))
    assert decode_request(encode_request(request, stream=stream)) == (request, stream)
