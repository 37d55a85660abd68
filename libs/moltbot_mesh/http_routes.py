"""The methods that Envoy passes on by HTTP/1.1 instead of making gRPC of them: those that carry what models answer.

Their bodies are OpenAI's JSON either way (`google.api.HttpBody`), so there is nothing to transcode, and gRPC's own
framing and threads would be a third of what a request costs (docs/adr/0008). All else is transcoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPENAI = "/moltbot.gateway.v1.OpenAIService"
_OPERATIONS = "/moltbot.gateway.v1.OperationsService"

PASSED_ON: Mapping[tuple[str, str], str] = {
    ("POST", "/v1/chat/completions"): f"{_OPENAI}/ChatCompletions",
    ("POST", "/v1/completions"): f"{_OPENAI}/Completions",
    ("POST", "/v1/embeddings"): f"{_OPENAI}/Embeddings",
    ("POST", "/v1/rerank"): f"{_OPENAI}/Rerank",
    ("POST", "/v1/classify"): f"{_OPENAI}/Classify",
}
"""Full method names by verb and path, as the protos' annotations have them."""

HEALTH = ("GET", "/healthz")
"""What Envoy asks to know whether an instance serves."""

SERVED: Mapping[tuple[str, str], str] = {**PASSED_ON, HEALTH: f"{_OPERATIONS}/Healthz"}
"""All that the gateway answers by HTTP/1.1."""
