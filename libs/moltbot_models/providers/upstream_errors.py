"""What went wrong at an upstream, as errors of the mesh.

The upstream's own text is never passed on: it may quote the prompt or the secret. What identifies the problem (status,
code, parameter) is.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, cast

import msgspec

from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_models.generation import GenerationRequest

_IDENTIFIER = re.compile(r"^[A-Za-z0-9_.\[\]-]{1,80}$")
_TOO_LONG = re.compile(rb"context[_ ]length|maximum context|context window|too many tokens", re.IGNORECASE)
_MAX_RETRY_AFTER_S = 3600.0


def refused(model: str, status: int, body: bytes, retry_after: str) -> MoltbotError:
    """The upstream answered with an HTTP error."""
    said = f"{model}: the upstream answered HTTP {status}{_identifiers(body)}"
    match status:
        case 400 | 422 if _TOO_LONG.search(body):
            return InvalidArgument(
                f"{said}: prompt and answer do not fit the model's context; shorten the prompt or max_tokens",
                reason="CONTEXT_LENGTH_EXCEEDED",
            )
        case 400 | 422:
            return InvalidArgument(f"{said}: it refuses the request")
        case 413:
            return InvalidArgument(f"{said}: the request is too large for it", reason="REQUEST_TOO_LARGE")
        case 401 | 403:
            return _broken(f"{said}: it refuses the mesh's own secret; mend `auth` in the model's manifest")
        case 404 | 405:
            return _broken(f"{said}: no such route or model there; mend `endpoint` or `upstream_model` in the manifest")
        case 429:
            return _unavailable(f"{said}: it is overloaded or its quota is used up", _seconds(retry_after))
        case 408:
            return _unavailable(said)
        case _ if status >= 500:
            return _unavailable(said, _seconds(retry_after))
        case _ if 300 <= status < 400:
            return _broken(f"{said}: redirects are refused; give its final address as `endpoint`")
        case _:
            return _broken(said)


def wrong_task(model: str, task: str, wanted: str) -> InvalidArgument:
    """The model does something else than what it was asked for."""
    return InvalidArgument(f"{model}: this model is of type {task}; ask one of type {wanted}")


def not_offered(model: str, provider: str, what: str) -> InvalidArgument:
    """The protocol has no such thing."""
    return InvalidArgument(f"{model}: the protocol {provider} has no {what}; serve such a model by triton or embedded")


def refuse_media(model: str, provider: str, request: GenerationRequest) -> None:
    """Refuse images and sounds, for a protocol that has no place for them.

    Raises:
        InvalidArgument: There are some.
    """
    if any(message.parts for message in request.messages):
        raise InvalidArgument(
            f"{model}: the protocol {provider} carries text alone, and the conversation has an image or a sound; "
            "serve a model that takes such by the provider openai"
        )


def error_in_band(model: str, error: object) -> MoltbotError:
    """The upstream sent an error object within an answer that began well."""
    fields = cast("Mapping[str, object]", error) if isinstance(error, dict) else {}
    status = fields.get("code", fields.get("status"))
    if isinstance(status, int) and 400 <= status < 600:
        return refused(model, status, msgspec.json.encode({"error": error}), "")
    if "context_length_exceeded" in {fields.get("code"), fields.get("type")}:
        return refused(model, 400, msgspec.json.encode({"error": error}), "")
    return _broken(f"{model}: the upstream ended its answer with an error{_identifiers_of(fields)}")


def unreachable(model: str, why: str) -> Unavailable:
    """No connection."""
    return _unavailable(f"{model}: the upstream cannot be reached: {why}")


def connection_lost(model: str) -> Unavailable:
    """The connection broke while an answer was due."""
    return _unavailable(f"{model}: the upstream closed the connection before the answer was complete")


def timed_out(model: str, waited: str, seconds: float) -> Unavailable:
    """The upstream was silent for too long."""
    return _unavailable(f"{model}: the upstream did not send {waited} within {seconds:g} s")


def garbage(model: str, why: str) -> Unavailable:
    """The upstream's answer cannot be understood."""
    return _broken(f"{model}: the upstream's answer cannot be used: {why}")


def _unavailable(message: str, retry_after_s: float | None = None) -> Unavailable:
    return Unavailable(message, reason="UPSTREAM_UNAVAILABLE", retry_after_s=retry_after_s)


def _broken(message: str) -> Unavailable:
    return Unavailable(message, reason="UPSTREAM_ERROR")


def _seconds(header: str) -> float | None:
    try:
        seconds = float(header)
    except ValueError:
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _identifiers(body: bytes) -> str:
    try:
        tree = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    error = tree.get("error", tree)
    return _identifiers_of(cast("Mapping[str, object]", error)) if isinstance(error, dict) else ""


def _identifiers_of(error: Mapping[str, object]) -> str:
    found = [
        f"{key} {value}"
        for key in ("type", "code", "param")
        if isinstance(value := error.get(key), str) and _IDENTIFIER.match(value)
    ]
    return f" ({', '.join(found)})" if found else ""
