from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from moltbot_models.engine import EngineConfig, EngineError, TextEngine
from moltbot_models.generation import Delta, GenerationRequest, Sampling
from moltbot_testkit.random_model import model_config, random_weights, write_model

EXACT = EngineConfig(weights="f32", kv="f32", step_tokens=64, kv_cache_bytes=4 << 20)


@dataclass
class Answer:
    """Collects what an engine says about one request."""

    deltas: list[Delta] = field(default_factory=list)
    error: EngineError | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    handle: object = None

    def put(self, delta):
        self.deltas.append(delta)
        self.started.set()
        if delta.finish_reason is not None:
            self.ended.set()

    def fail(self, error):
        self.error = error
        self.started.set()
        self.ended.set()

    def wait(self, timeout_s=30.0):
        assert self.ended.wait(timeout_s), "the engine did not end the request"
        return self

    @property
    def text(self):
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self):
        """Token ids, for requests with logprobs (a token of the byte tokenizer has one byte)."""
        return [logprob.token for delta in self.deltas for logprob in delta.logprobs]

    @property
    def raw(self):
        return [logprob.token_bytes for delta in self.deltas for logprob in delta.logprobs]

    @property
    def last(self):
        return self.deltas[-1]


def submit(engine, prompt, *, hook=None, tenant="", **sampling):
    """Submit a raw prompt and return its Answer."""
    answer = Answer()
    request = GenerationRequest(model="m", prompt=prompt, tenant=tenant, sampling=Sampling(**sampling))
    answer.handle = engine.submit(request, answer.put, on_error=answer.fail, hook=hook)
    return answer


@pytest.fixture(scope="session")
def ask():
    return submit


@pytest.fixture(scope="session")
def new_answer():
    return Answer


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory):
    config = model_config("llama")
    return write_model(tmp_path_factory.mktemp("llama"), config, random_weights(config))


@pytest.fixture(scope="module")
def engine(llama_directory):
    """An engine with exact arithmetic and a random model, shared by the tests of a file."""
    engine = TextEngine.load(llama_directory, EXACT)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def exact():
    return EXACT
