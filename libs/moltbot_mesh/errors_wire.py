"""Errors on the wire: `MoltbotError` to google.rpc.Status and back.

Source: AIP-193; the gRPC richer error model (`grpc-status-details-bin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from moltbot_mesh.errors import BY_CODE, DOMAIN, FieldViolation, Internal, MoltbotError

if TYPE_CHECKING:
    from collections.abc import Iterable

STATUS_DETAILS = "grpc-status-details-bin"

_STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def status_code(error: MoltbotError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return _STATUS_CODES[error.code]


def to_status(error: MoltbotError, request_id: str = "") -> status_pb2.Status:
    """Turn an error into a google.rpc.Status with ErrorInfo and, where it applies, BadRequest and RetryInfo."""
    status = status_pb2.Status(code=error.code, message=error.message)
    details: list[any_pb2.Any] = []

    def pack(detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> None:
        packed = any_pb2.Any()
        packed.Pack(detail)
        details.append(packed)

    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    if request_id:
        info.metadata["request_id"] = request_id
    pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        pack(bad)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        pack(retry)
    status.details.extend(details)
    return status


def from_status(status: status_pb2.Status) -> MoltbotError:
    """Turn a google.rpc.Status back into the error it was."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(cast("Any", info.DESCRIPTOR)):
            detail.Unpack(info)
        elif detail.Is(cast("Any", bad.DESCRIPTOR)):
            detail.Unpack(bad)
        elif detail.Is(cast("Any", retry.DESCRIPTOR)) and detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    error = BY_CODE.get(status.code, Internal)
    return error(
        status.message,
        reason=info.reason or None,
        metadata=dict(info.metadata),
        violations=[FieldViolation(v.field, v.description) for v in bad.field_violations],
        retry_after_s=retry_after_s,
    )


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> MoltbotError:
    """Turn what a stub raised into a `MoltbotError`.

    Args:
        error: Raised by the call.
        service: Who was called, for a message of a failure that carries none of ours.
    """
    details = _status_details(error.trailing_metadata() or ())
    if details is not None:
        return from_status(details)
    code = error.code()
    text = f"{service}: {error.details() or code.name.lower()}"
    return BY_CODE.get(code.value[0], Internal)(text, metadata={"service": service})


def _status_details(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status | None:
    for key, value in metadata:
        if key == STATUS_DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None  # not ours: the code and the text still say what happened
    return None
