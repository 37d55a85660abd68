"""Chat, completions and embeddings by the real `openai` client, answered by models in Triton."""

from __future__ import annotations

import json
import time
import uuid

import numpy as np
import openai
import pytest

from moltbot_testkit.upstreams import Script

TEXT, EMBEDDING = "moltbot-tiny", "minilm-l6"
pytestmark = pytest.mark.timeout(180)


def user(text):
    return [{"role": "user", "content": text}]


def test_a_plain_answer_says_who_made_it_and_what_it_cost(world):
    raw = world.client().chat.completions.with_raw_response.create(
        model=TEXT, messages=user("Hello"), max_tokens=24, temperature=0
    )
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.model == raw.headers["x-moltbot-model"] == TEXT
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert uuid.UUID(raw.headers["x-moltbot-receipt"]).version == 7
    assert raw.headers["x-request-id"]


def test_a_stream_says_the_same_piece_by_piece(world):
    # Long enough that it is not all there before the first of it is read: pieces that wait are sent as one.
    asked = {"model": TEXT, "messages": user("Tell me a story."), "max_tokens": 400, "temperature": 0}
    plain = world.client().chat.completions.create(**asked)
    with world.client().chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        pieces = list(stream)
    deltas = [piece.choices[0].delta.content for piece in pieces if piece.choices and piece.choices[0].delta.content]
    assert len(deltas) > 1
    assert "".join(deltas) == plain.choices[0].message.content
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == plain.choices[0].finish_reason
    assert pieces[-1].usage == plain.usage or pieces[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert len({piece.id for piece in pieces}) == 1


def test_stop_seed_and_logprobs_are_heeded(world):
    asked = {"model": TEXT, "messages": user("Tell me about a lighthouse."), "max_tokens": 30}
    first, second = (world.client().chat.completions.create(**asked, temperature=1.0, seed=7) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    whole = world.client().chat.completions.create(**asked, temperature=0, logprobs=True, top_logprobs=2)
    tokens = whole.choices[0].logprobs.content
    assert len(tokens) == whole.usage.completion_tokens or whole.choices[0].finish_reason == "stop"
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    text = whole.choices[0].message.content
    stop = text[5:8]
    cut = world.client().chat.completions.create(**asked, temperature=0, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_completions_answer_a_bare_prompt(world):
    answer = world.client().completions.create(model=TEXT, prompt="The sea", max_tokens=8, temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    with world.client().completions.create(
        model=TEXT, prompt="The sea", max_tokens=8, temperature=0, stream=True
    ) as stream:
        assert "".join(piece.choices[0].text for piece in stream if piece.choices) == answer.choices[0].text


def test_embeddings_put_like_beside_like(world):
    texts = ["A cat sits on the mat.", "A kitten lies on the rug.", "Interest rates rose by half a point."]
    answer = world.client().embeddings.create(model=EMBEDDING, input=texts)
    cat, kitten, rates = (np.array(one.embedding) for one in answer.data)
    assert cat.shape == (384,)
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-3)
    assert cat @ kitten > cat @ rates + 0.2
    floats = world.client().embeddings.create(model=EMBEDDING, input=texts[0], encoding_format="float")
    # INT8 with dynamic quantisation: a batch may move a vector a little.
    assert np.array(floats.data[0].embedding) @ cat > 0.99
    assert answer.usage.prompt_tokens > 0


def test_models_are_listed_and_found_by_id(world):
    found = {model.id for model in world.client().models.list()}
    assert {TEXT, EMBEDDING, "echo", "standby"} <= found
    assert world.client().models.retrieve(TEXT).id == TEXT
    with pytest.raises(openai.NotFoundError, match="nothing-like-it"):
        world.client().models.retrieve("nothing-like-it")


def test_the_mesh_runs_the_calculator_for_the_model(world):
    raw = world.client().chat.completions.with_raw_response.create(
        model=TEXT,
        messages=user("What is 17 * 23?"),
        max_tokens=64,
        temperature=0,
        extra_body={"moltbot": {"tools": ["calculator"]}},
    )
    answer = raw.parse()
    assert "391" in answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls
    # The tool's result went back to the model: two model calls and a tool call stand in the log under one trace.
    query = {"requestId": raw.headers["x-request-id"], "pageSize": 50}
    limit = time.monotonic() + 10
    kinds = []
    while kinds.count("EVENT_TYPE_REQUEST") == 0 and time.monotonic() < limit:
        found = world.http("e2e").post("/moltbot/v1/audit/events:query", json=query).json()
        kinds = [event["event"]["type"] for event in found.get("events", [])]
    assert kinds.count("EVENT_TYPE_TOOL_CALL") == 1, kinds
    assert kinds.count("EVENT_TYPE_MODEL_CALL") == 2, kinds


@pytest.mark.parametrize("offered", ["sql_lookup", "*"])
def test_a_tool_of_the_mesh_is_called_as_its_schema_says_unasked(world, offered):
    # The model takes the word of the question, which is no table: its service's schema lets the table alone through.
    raw = world.client().chat.completions.with_raw_response.create(
        model=TEXT,
        messages=user("Look up state open in the ledger"),
        max_tokens=64,
        temperature=0,
        extra_body={"moltbot": {"tools": [offered]}},
    )
    query = {"requestId": raw.headers["x-request-id"], "type": "EVENT_TYPE_TOOL_CALL"}
    limit, calls = time.monotonic() + 10, []
    while not calls and time.monotonic() < limit:
        found = world.http("e2e").post("/moltbot/v1/audit/events:query", json=query).json()
        calls = [event["event"] for event in found.get("events", [])]
    assert [(call["object"], call["outcome"]) for call in calls] == [("sql_lookup", "OUTCOME_SUCCESS")]


def test_tools_of_the_client_come_back_to_the_client(world):
    tool = {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Evaluates an arithmetic expression.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
            },
        },
    }
    with world.playing(Script(chunks=(), tool_calls=(("calculator", '{"expression": "2+2"}'),))):
        answer = world.client().chat.completions.create(model="echo", messages=user("2+2?"), tools=[tool])
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("calculator", '{"expression": "2+2"}')


def test_a_strict_tool_is_called_as_its_schema_says(world):
    # The model was trained on a calculator that takes an `expression`, and heeds no schema by itself.
    schema = {
        "type": "object",
        "properties": {"formula": {"type": "string", "pattern": "^[0-9]{1,3} [*] [0-9]{1,3}$"}},
        "required": ["formula"],
        "additionalProperties": False,
    }
    tool = {"name": "calculator", "description": "Evaluates an arithmetic expression.", "parameters": schema}

    def arguments(*, strict: bool) -> dict:
        tools = [{"type": "function", "function": tool | {"strict": strict}}]
        asked = {"model": TEXT, "messages": user("What is 17 * 23?"), "max_tokens": 80, "temperature": 0}
        answer = world.client().chat.completions.create(**asked, tools=tools).choices[0]
        assert answer.finish_reason == "tool_calls"
        return json.loads(answer.message.tool_calls[0].function.arguments)

    assert arguments(strict=False) == {"expression": "17 * 23"}
    assert arguments(strict=True) == {"formula": "17 * 23"}


def test_a_session_remembers(world):
    session = f"s-{uuid.uuid4().hex}"
    with world.playing(Script(chunks=("Noted", "."))) as upstream:
        for text in ("My dog is called Bruno.", "What is my dog called?"):
            world.client().chat.completions.create(
                model="echo", messages=user(text), extra_body={"moltbot": {"session": session}}
            )
        last = upstream.seen[-1].body["messages"]
    assert [(m["role"], m["content"]) for m in last] == [
        ("user", "My dog is called Bruno."),
        ("assistant", "Noted."),
        ("user", "What is my dog called?"),
    ]
    turns = world.http().get(f"/moltbot/v1/sessions/{session}/turns").json()["turns"]
    assert len(turns) == 2
    assert world.http("stranger").get(f"/moltbot/v1/sessions/{session}").status_code == 404


def test_a_session_of_the_served_model_recalls_a_name(world):
    session = f"s-{uuid.uuid4().hex}"
    said = [
        world.client()
        .chat.completions.create(
            model=TEXT, messages=user(text), max_tokens=32, temperature=0, extra_body={"moltbot": {"session": session}}
        )
        .choices[0]
        .message.content
        for text in ("My name is Ada.", "What is my name?")
    ]
    assert "Ada" in said[1], said
