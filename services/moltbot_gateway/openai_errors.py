"""Errors as OpenAI's clients know them: an HTTP status and `{"error": {"message", "type", "param", "code"}}`.

Source: https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from moltbot_mesh.errors import HTTP_STATUS

if TYPE_CHECKING:
    from moltbot_mesh.errors import MoltbotError

_STATUS_OF_REASON = {"REQUEST_TOO_LARGE": 413, "UPSTREAM_ERROR": 502, "UPSTREAM_UNAVAILABLE": 503}
_TYPE = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_CODE = {
    "UNAUTHENTICATED": "invalid_api_key",
    "KEY_REVOKED": "invalid_api_key",
    "MODEL_NOT_FOUND": "model_not_found",
    "QUOTA_EXCEEDED": "rate_limit_exceeded",
    "CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded",
}


def http_status(error: MoltbotError) -> int:
    """The HTTP status of an error."""
    return _STATUS_OF_REASON.get(error.reason) or HTTP_STATUS[error.code]


def error_body(error: MoltbotError) -> bytes:
    """The error object. `code` is OpenAI's where it has one, else our reason in lower case."""
    status = http_status(error)
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": _TYPE.get(status) or ("invalid_request_error" if status < 500 else "server_error"),
                "param": error.violations[0].field if error.violations else None,
                "code": _CODE.get(error.reason, error.reason.lower()),
            }
        }
    )
