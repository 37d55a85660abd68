"""Prompts far beyond the context cost the engine nothing."""

from __future__ import annotations

import threading
import time

import pytest

from moltbot_models.engine import EngineError
from moltbot_models.engine.model_directory import read_model_directory
from moltbot_models.engine.prompting import build_prompt
from moltbot_models.generation import GenerationRequest, Message

LONG = "a" * 15_000_000


@pytest.mark.parametrize(
    "request_",
    [GenerationRequest("m", (Message("user", LONG),)), GenerationRequest("m", (), LONG)],
    ids=["chat", "text"],
)
def test_a_prompt_that_cannot_fit_is_not_tokenised(engine, new_answer, request_):
    answer = new_answer()
    started_s = time.perf_counter()
    with pytest.raises(EngineError, match="15000") as raised:
        engine.submit(request_, answer.put, on_error=answer.fail)
    assert raised.value.reason == "REQUEST_TOO_LARGE"
    assert time.perf_counter() - started_s < 1.0


def test_other_threads_run_while_a_long_prompt_is_tokenised(llama_directory):
    directory = read_model_directory(llama_directory)
    looks, done = 0, threading.Event()

    def look():
        nonlocal looks
        while not done.is_set():
            time.sleep(0.001)
            looks += 1

    thread = threading.Thread(target=look)
    thread.start()
    build_prompt(directory, GenerationRequest("m", (), "word " * 100_000), 1 << 20, 1 << 20)
    done.set()
    thread.join()
    assert looks > 10  # a tokeniser that kept the interpreter's lock would let it look about once
