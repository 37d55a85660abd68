from __future__ import annotations

import re
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from moltbot_models.engine import EngineConfig, EngineError, TextEngine
from moltbot_models.engine.answer import Answer as AnswerText
from moltbot_models.generation import GenerationRequest, Message, ResponseFormat, Sampling, ToolSpec
from moltbot_testkit.engine import held

TOOLS = (ToolSpec("add", "Adds.", '{"type": "object"}'),)


class Scripted:
    """A hook that makes a random model say a text."""

    def __init__(self, engine, text, end="<|im_end|>"):
        self.tokens = engine._directory.tokenizer.encode(text + end).ids

    def alter(self, logits, contexts):
        for row, context in zip(logits, contexts, strict=True):
            row[self.tokens[context.answered]] = 1e4

    def choose(self, candidates, contexts):
        return [None] * len(contexts)


class GumbelMark:
    """The plain Gumbel function: noise from a key and the last token chooses."""

    def alter(self, logits, contexts):
        pass

    def choose(self, candidates, contexts):
        noise = np.stack([self.noise(context.tokens[-1]) for context in contexts])
        if candidates.tokens is not None:
            noise = np.take_along_axis(noise, candidates.tokens, axis=1)
        return candidates.tokens_at((candidates.log_weights + noise).argmax(axis=1))

    @staticmethod
    def noise(last):
        return np.random.default_rng(1000 + last).gumbel(size=259)


USER = (Message("user", "go"),)


def say(engine, new_answer, text, *, messages=USER, tools=(), tool_choice="auto", **sampling):
    answer = new_answer()
    request = GenerationRequest("m", messages, tools=tools, tool_choice=tool_choice, sampling=Sampling(**sampling))
    answer.handle = engine.submit(request, answer.put, on_error=answer.fail, hook=Scripted(engine, text))
    return answer.wait()


def test_an_answer_ends_at_the_end_token_with_usage(engine, new_answer):
    answer = say(engine, new_answer, "Grüße, 世界!")
    assert answer.text == "Grüße, 世界!"
    assert answer.last.finish_reason == "stop"
    assert answer.last.usage.completion_tokens == len("Grüße, 世界!".encode()) + 1
    assert all("\ufffd" not in delta.text for delta in answer.deltas)


def test_max_tokens_ends_an_answer(engine, ask):
    answer = ask(engine, "go", max_tokens=5, ignore_eos=True).wait()
    assert answer.last.finish_reason == "length"
    assert answer.last.usage.completion_tokens == 5


def test_an_answer_without_a_limit_ends_with_the_context(engine, ask):
    answer = ask(engine, "g" * 500, ignore_eos=True).wait()
    assert answer.last.finish_reason == "length"
    assert answer.last.usage.prompt_tokens + answer.last.usage.completion_tokens == 512


def test_stop_strings_end_an_answer_and_are_not_part_of_it(engine, new_answer):
    answer = say(engine, new_answer, "one two STOP three", stop=("STOP",))
    assert (answer.text, answer.last.finish_reason) == ("one two ", "stop")
    assert say(engine, new_answer, "one two STO", stop=("STOP",)).text == "one two STO"


def test_tool_calls_come_as_pieces_with_an_id(engine, new_answer):
    answer = say(
        engine, new_answer, 'Let me.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', tools=TOOLS
    )
    pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
    assert answer.text == "Let me."
    assert pieces[0].name == "add"
    assert pieces[0].id.startswith("call_")
    assert "".join(piece.arguments for piece in pieces) == '{"a": 1}'
    assert answer.last.finish_reason == "tool_calls"


def test_tags_are_plain_text_when_no_tools_are_offered(engine, new_answer):
    text = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    for offer in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = say(engine, new_answer, text, **offer)
        assert (answer.text, answer.last.finish_reason) == (text, "stop")


@pytest.mark.parametrize(
    ("choice", "rest"),
    [("add", ' {"a": 1}}\n</tool_call>'), ("required", 'add", "arguments": {"a": 1}}\n</tool_call>')],
)
def test_a_demanded_tool_call_is_begun_for_the_model(engine, new_answer, choice, rest):
    answer = say(engine, new_answer, rest, tools=TOOLS, tool_choice=choice)
    pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
    assert answer.text == ""
    assert [piece.name for piece in pieces if piece.name] == ["add"]
    assert "".join(piece.arguments for piece in pieces).strip() == '{"a": 1}'


def test_log_probabilities_come_for_each_token(engine, ask):
    answer = ask(engine, "go", max_tokens=4, ignore_eos=True, logprobs=True, top_logprobs=3).wait()
    found = [logprob for delta in answer.deltas for logprob in delta.logprobs]
    assert len(found) == 4
    for logprob in found:
        assert len(logprob.top) == 3
        assert logprob.top[0].logprob == pytest.approx(logprob.logprob), "greedy takes the most likely"
        assert logprob.top[0].logprob >= logprob.top[1].logprob >= logprob.top[2].logprob


def test_a_hook_chooses_and_the_choice_can_be_detected(engine, ask):
    prompt = "mark this"
    answer = ask(
        engine, prompt, hook=GumbelMark(), max_tokens=60, temperature=1.5, ignore_eos=True, logprobs=True
    ).wait()
    tokenizer, vocabulary = engine._directory.tokenizer, engine._directory.vocabulary
    ids_of = {vocabulary.bytes_of(token): token for token in range(259)}
    output = [ids_of[raw] for raw in answer.raw]
    before = [tokenizer.encode(prompt).ids[-1], *output[:-1]]
    scores = [GumbelMark.noise(last)[token] for last, token in zip(before, output, strict=True)]
    # Without a mark the mean of Gumbel noise is 0.577.
    assert np.mean(scores) > 1.5


def test_a_hook_can_forbid_tokens(engine, ask):
    class OnlyVowels:
        allowed = engine._directory.tokenizer.encode("aeiou").ids

        def alter(self, logits, contexts):
            for row in logits:
                kept = row[self.allowed].copy()
                row[:] = -np.inf
                row[self.allowed] = kept

        def choose(self, candidates, contexts):
            return [None] * len(contexts)

    answer = ask(engine, "go", hook=OnlyVowels(), max_tokens=30, temperature=2.0, top_p=0.95, seed=3).wait()
    assert set(answer.text) <= set("aeiou")


def test_a_hook_that_fails_ends_its_own_request_alone(engine, ask):
    class Broken:
        def alter(self, logits, contexts):
            raise RuntimeError("no")

        def choose(self, candidates, contexts):
            return [None]

    healthy = ask(engine, "go", max_tokens=20, ignore_eos=True)
    broken = ask(engine, "go", hook=Broken(), max_tokens=20)
    assert broken.wait().error.reason == "ENGINE_FAILED"
    assert healthy.wait().last.finish_reason == "length"


def begun(engine, answer):
    """Submit a long request; its engine stands at its first token until the event that is returned is set."""
    go = threading.Event()

    def put(delta):
        answer.put(delta)
        go.wait(30)

    sampling = Sampling(max_tokens=500, ignore_eos=True, logprobs=True)
    request = GenerationRequest("m", prompt="go", sampling=sampling)
    answer.handle = engine.submit(request, put, on_error=answer.fail)
    assert answer.started.wait(10)
    return go


def test_cancelling_ends_a_stream_and_frees_its_blocks(engine, new_answer):
    answer = new_answer()
    go = begun(engine, answer)
    answer.handle.cancel()
    answer.handle.cancel()
    go.set()
    assert answer.wait().last.finish_reason == "cancelled"
    assert answer.last.usage.completion_tokens > 0
    stats = engine.stats()
    assert stats.running == stats.waiting == 0
    assert stats.blocks_free + stats.blocks_cached == stats.blocks_total


def test_a_callback_that_raises_ends_its_own_request(engine, ask):
    def broken(_delta):
        raise RuntimeError("consumer is gone")

    request = GenerationRequest("m", prompt="go", sampling=Sampling(max_tokens=400, ignore_eos=True))
    told = []
    engine.submit(request, broken, on_error=told.append)
    assert ask(engine, "go", max_tokens=3, ignore_eos=True).wait().last.finish_reason == "length"
    assert engine.stats().running == 0
    assert [error.reason for error in told] == ["ENGINE_FAILED"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": "g" * 512}, "REQUEST_TOO_LARGE"),
        ({"prompt": ""}, "INVALID_ARGUMENT"),
        ({"prompt": "\ud800"}, "INVALID_ARGUMENT"),
        ({"prompt": None}, "INVALID_ARGUMENT"),
        ({"messages": (Message("user", "x"),)}, "INVALID_ARGUMENT"),
        ({"sampling": Sampling(temperature=-1.0)}, "INVALID_ARGUMENT"),
        ({"sampling": Sampling(top_p=1.5)}, "INVALID_ARGUMENT"),
        ({"sampling": Sampling(max_tokens=0)}, "INVALID_ARGUMENT"),
        (
            {"prompt": None, "messages": (Message("user", "x"),), "tools": TOOLS, "tool_choice": "sub"},
            "INVALID_ARGUMENT",
        ),
    ],
)
def test_what_can_never_be_served_is_refused_at_once(engine, changes, reason):
    request = replace(GenerationRequest("m", prompt="go"), **changes)
    with pytest.raises(EngineError) as refused:
        engine.submit(request, lambda _delta: None, on_error=lambda _error: None)
    assert refused.value.reason == reason


def test_a_full_queue_refuses_and_closing_ends_what_runs(llama_directory, exact, ask, new_answer):
    engine = TextEngine.load(llama_directory, replace(exact, step_tokens=1, max_queue=2))
    running = new_answer()
    go = begun(engine, running)
    waiting = [ask(engine, "go", max_tokens=5) for _ in range(2)]
    with pytest.raises(EngineError) as refused:
        ask(engine, "go", max_tokens=5)
    assert refused.value.reason == "QUEUE_FULL"
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._closing:
        time.sleep(0.001)
    go.set()
    closing.join(30)
    engine.close()
    assert {answer.wait().error.reason for answer in [running, *waiting]} == {"ENGINE_CLOSED"}
    with pytest.raises(EngineError) as refused:
        ask(engine, "go")
    assert refused.value.reason == "ENGINE_CLOSED"


def test_many_threads_may_submit_and_cancel_at_once(engine, ask):
    answers = []

    def client(number):
        for turn in range(5):
            answer = ask(engine, f"client {number} " * (turn + 1), max_tokens=10, ignore_eos=True)
            answers.append(answer)
            if (number + turn) % 3 == 0:
                answer.handle.cancel()
            answer.wait()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 40
    for answer in answers:
        assert answer.error is None
        assert [delta.finish_reason for delta in answer.deltas[:-1]] == [None] * (len(answer.deltas) - 1)
        assert answer.last.finish_reason in {"length", "cancelled"}
    assert engine.stats().running == 0


def test_a_failed_step_ends_its_requests_and_the_engine_goes_on(llama_directory, exact, ask, monkeypatch):
    engine = TextEngine.load(llama_directory, exact)
    try:
        forward = engine._model.forward

        def fail(_batch, _meanwhile):
            monkeypatch.setattr(engine._model, "forward", forward)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(engine._model, "forward", fail)
        assert ask(engine, "go", max_tokens=3).wait().error.reason == "ENGINE_FAILED"
        assert ask(engine, "go", max_tokens=3, ignore_eos=True).wait().last.finish_reason == "length"
        assert engine.stats().failures == 1
    finally:
        engine.close()


class Steps:
    """Stands between an engine and its model: notes what callers are told while a step is computed."""

    def __init__(self, engine, monkeypatch, *, fail_at=None, before=None):
        self.before = before
        self.forward, self.fail_at = engine._model.forward, fail_at
        self.within = False
        self.count = 0
        monkeypatch.setattr(engine._model, "forward", self)

    def __call__(self, batch, meanwhile):
        self.count += 1
        if self.count == self.fail_at:
            raise RuntimeError("out of memory")
        if self.before is not None:
            self.before(self.count)

        def noted():
            self.within = True
            meanwhile()
            self.within = False

        return self.forward(batch, noted)


def test_a_token_that_was_drawn_is_told_before_its_request_is_cancelled(llama_directory, exact, monkeypatch, ask):
    engine = TextEngine.load(llama_directory, exact)
    try:
        whole = ask(engine, "go", max_tokens=9, ignore_eos=True, temperature=0.0, logprobs=True).wait()
        cut = []

        def cancel(count):
            if count == 3 and cut:
                # Two tokens were drawn, the second is not told yet. The step goes on; what it draws is a third.
                cut[0].handle.cancel()

        Steps(engine, monkeypatch, before=cancel)
        with held(engine):
            cut.append(ask(engine, "go", max_tokens=9, ignore_eos=True, temperature=0.0, logprobs=True))
            engine._model.forward.count = 0
        cut[0].wait()
    finally:
        engine.close()
    assert cut[0].last.finish_reason == "cancelled"
    assert cut[0].tokens == whole.tokens[: cut[0].last.usage.completion_tokens]
    assert len(cut[0].tokens) == 3


def test_a_receiver_that_raises_at_the_last_but_one_piece_hears_of_no_good_end(
    llama_directory, exact, monkeypatch, ask, new_answer
):
    engine = TextEngine.load(llama_directory, exact)
    try:
        answer, said = new_answer(), []

        def put(delta):
            said.append(delta.finish_reason)
            raise RuntimeError("consumer is gone")

        def cancel(count):
            if count == 1 and handles:
                handles[0].cancel()

        handles = []
        Steps(engine, monkeypatch, before=cancel)
        with held(engine):
            request = GenerationRequest("m", prompt="go", sampling=Sampling(max_tokens=9, ignore_eos=True))
            handles.append(engine.submit(request, put, on_error=answer.fail))
            engine._model.forward.count = 0
        assert answer.wait().error.reason == "ENGINE_FAILED"
        assert ask(engine, "go", max_tokens=3, ignore_eos=True).wait().last.finish_reason == "length"
    finally:
        engine.close()
    assert said == [None]


def test_tokens_are_told_while_the_next_step_is_computed(llama_directory, exact, monkeypatch, new_answer):
    engine = TextEngine.load(llama_directory, exact)
    try:
        steps, answer, told = Steps(engine, monkeypatch), new_answer(), []

        def put(delta):
            told.append((steps.within, steps.count, delta.finish_reason))
            answer.put(delta)

        sampling = Sampling(max_tokens=4, ignore_eos=True, temperature=0.0, logprobs=True)
        engine.submit(GenerationRequest("m", prompt="go", sampling=sampling), put, on_error=answer.fail)
        answer.wait()
    finally:
        engine.close()
    # The prompt's step gives the first token; the last one is told at once.
    assert told == [(True, 2, None), (True, 3, None), (True, 4, None), (False, 4, "length")]


def test_what_was_drawn_before_a_step_failed_is_told_before_the_error(llama_directory, exact, monkeypatch, ask):
    engine = TextEngine.load(llama_directory, exact)
    try:
        whole = ask(engine, "go", max_tokens=6, ignore_eos=True, temperature=0.0, logprobs=True).wait()
        Steps(engine, monkeypatch, fail_at=4)
        cut = ask(engine, "go", max_tokens=6, ignore_eos=True, temperature=0.0, logprobs=True).wait()
    finally:
        engine.close()
    assert cut.error.reason == "ENGINE_FAILED"
    assert cut.tokens == whole.tokens[:3]


@pytest.mark.parametrize("sampling", [{}, {"stop": ("never",)}, {"max_tokens": 1}])
@pytest.mark.parametrize("method", ["push", "finish"])
def test_an_answer_that_cannot_be_read_ends_alone(engine, ask, monkeypatch, sampling, method):
    real, broken = getattr(AnswerText, method), []

    def fail(self, *given):
        if self is broken[0]:
            raise RecursionError("too deep")
        return real(self, *given)

    with held(engine):
        bad = ask(engine, "a", **({"max_tokens": 8, "ignore_eos": True} | sampling))
        good = ask(engine, "b", max_tokens=8, ignore_eos=True)
        broken.append(engine._incoming[-2].answer)
        monkeypatch.setattr(AnswerText, method, fail)
    assert bad.wait().error.reason == "ENGINE_FAILED"
    assert good.wait().last.finish_reason == "length"
    stats = engine.stats()
    assert stats.running == 0
    assert stats.blocks_free + stats.blocks_cached == stats.blocks_total


def test_an_answer_full_of_brackets_harms_nobody_when_it_is_cancelled(engine, ask, new_answer):
    text = "<tool_call>" + "[" * 300
    answer = new_answer()
    limit = sys.getrecursionlimit()
    go = threading.Event()

    class Deep(Scripted):
        def alter(self, logits, contexts):
            super().alter(logits, contexts)
            if contexts[0].answered == len(text):
                sys.setrecursionlimit(120)  # instead of a context of thousands of tokens
                go.set()

    request = GenerationRequest("m", messages=USER, tools=TOOLS, sampling=Sampling(max_tokens=400))
    try:
        handle = engine.submit(request, answer.put, on_error=answer.fail, hook=Deep(engine, text + "[" * 90))
        assert go.wait(30)
        handle.cancel()
        answer.wait()
    finally:
        sys.setrecursionlimit(limit)
    assert answer.last.finish_reason == "cancelled"
    assert ask(engine, "go", max_tokens=3, ignore_eos=True).wait().last.finish_reason == "length"


@pytest.mark.parametrize("stop", [(), ("never",), ("abx",)])
def test_a_mask_is_never_one_of_an_earlier_token(engine, new_answer, stop):
    answer = new_answer()
    request = GenerationRequest(
        "m",
        prompt="go",
        sampling=Sampling(max_tokens=40, stop=stop),
        response_format=ResponseFormat("regex", "(ab){9}c"),
    )
    engine.submit(request, answer.put, on_error=answer.fail)
    assert answer.wait().error is None
    assert answer.text == "ab" * 9 + "c"


def test_what_a_grammar_allows_is_found_out_while_the_next_step_is_computed(
    llama_directory, exact, monkeypatch, new_answer
):
    engine = TextEngine.load(llama_directory, exact)
    try:
        steps, answer, looked = Steps(engine, monkeypatch), new_answer(), []
        look_ahead = engine._grammars.look_ahead

        def noted(constraint):
            looked.append((steps.within, steps.count))
            look_ahead(constraint)

        monkeypatch.setattr(engine._grammars, "look_ahead", noted)
        request = GenerationRequest(
            "m", prompt="go", sampling=Sampling(max_tokens=5), response_format=ResponseFormat("regex", "[a-z]{30}")
        )
        engine.submit(request, answer.put, on_error=answer.fail)
        answer.wait()
    finally:
        engine.close()
    # The first in the thread that submits, before any step.
    assert looked == [(False, 0), (True, 2), (True, 3), (True, 4), (True, 5)]
    assert re.fullmatch("[a-z]+", answer.text)


def test_a_cache_in_bf16_is_there_or_what_to_set_instead_is_told(llama_directory):
    config = EngineConfig(compute="bf16", kv="bf16", weights="bf16", kv_cache_bytes=1 << 20)
    refused = None
    try:
        TextEngine.load(llama_directory, config).close()
    except EngineError as error:  # a processor without AVX-512
        refused = error
    assert refused is None or (refused.reason == "INVALID_ARGUMENT" and 'kv="u8"' in str(refused))
