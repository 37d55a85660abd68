"""What the gateway believes of a request before it knows who sent it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from moltbot_gateway.callers import Callers
from moltbot_mesh.call import Call, enter_call

OPENAI = "/moltbot.gateway.v1.OpenAIService"


@pytest.fixture
def begin():
    callers = Callers(Mock(), Mock(), Mock(), Mock())

    def begin(method, path=None):
        enter_call(Call(method))
        return callers.begin({} if path is None else {"x-mesh-path": path, "x-mesh-method": "GET"})

    return begin


def test_metrics_know_as_many_routes_as_there_are_methods(begin):
    paths = [f"/made/up/{number}" for number in range(100)]
    assert {begin(f"{OPENAI}/Refuse", path).route for path in paths} == {"unknown"}
    models = [f"/v1/models/{number}" for number in range(100)]
    assert {begin(f"{OPENAI}/RetrieveModel", path).route for path in models} == {"/v1/models/{model}"}
    assert begin(f"{OPENAI}/ChatCompletions", "/v1/chat/completions").route == "/v1/chat/completions"
    assert begin(f"{OPENAI}/ChatCompletions").route == f"{OPENAI}/ChatCompletions"


def test_the_log_has_the_path_as_it_was_asked_for(begin):
    assert begin(f"{OPENAI}/Refuse", "/made/up?key=secret").caller.action == "GET /made/up"
