"""The errors of the mesh: one class per gRPC code, each carrying a reason a program can act on.

A service raises one of these; `moltbot_mesh.interceptors` turns it into a `google.rpc.Status` with
`ErrorInfo` (and `BadRequest` or `RetryInfo`), and the client side turns that back into the same class.
Nothing here imports grpc, so core code may raise them.

Source: AIP-193; google/rpc/code.proto; google/rpc/error_details.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOMAIN = "moltbot.dev"
"""The `ErrorInfo.domain` of every error made by the mesh."""

HTTP_STATUS = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""HTTP status by gRPC code, after google/rpc/code.proto."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that was refused."""

    field: str
    """Path of the field in the request, as the client wrote it (`messages[0].role`)."""
    description: str
    """What is wrong and how to mend it."""


class MoltbotError(Exception):
    """Base of every error that may cross a service boundary.

    Args:
        message: What happened, where, and how to mend it. Shown to the caller: never a secret, a prompt or a raw
            database error.
        reason: A name from `moltbot.errors.v1.ErrorReason` without its prefix (`QUOTA_EXCEEDED`).
        metadata: Facts a program can act on (`{"model": "local"}`).
        violations: The refused fields, for `InvalidArgument`.
        retry_after_s: When a retry may succeed, in seconds; `None` if the error says nothing about it.
    """

    code: ClassVar[int] = 2
    """The number of this error's code in google/rpc/code.proto."""
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


class Cancelled(MoltbotError):
    """The caller went away or asked for the operation to stop."""

    code = 1
    default_reason = "CANCELLED"


class InvalidArgument(MoltbotError):
    """The request itself is wrong, whatever the state of the system."""

    code = 3
    default_reason = "INVALID_ARGUMENT"


class DeadlineExceeded(MoltbotError):
    """The time given by the caller ran out."""

    code = 4
    default_reason = "DEADLINE_EXCEEDED"


class NotFound(MoltbotError):
    """The named resource does not exist, or the caller may not know that it does."""

    code = 5
    default_reason = "NOT_FOUND"


class AlreadyExists(MoltbotError):
    """The resource to be created exists already."""

    code = 6
    default_reason = "ALREADY_EXISTS"


class PermissionDenied(MoltbotError):
    """The caller is known and may not do this."""

    code = 7
    default_reason = "PERMISSION_DENIED"


class ResourceExhausted(MoltbotError):
    """A quota, a queue or a disk is full."""

    code = 8
    default_reason = "RESOURCE_EXHAUSTED"


class FailedPrecondition(MoltbotError):
    """The system is not in the state that the operation needs; retrying alone will not help."""

    code = 9
    default_reason = "FAILED_PRECONDITION"


class Aborted(MoltbotError):
    """The operation lost against a concurrent one; retry at a higher level."""

    code = 10
    default_reason = "ABORTED"


class OutOfRange(MoltbotError):
    """The operation went past the valid range, such as a page past the end of a log."""

    code = 11
    default_reason = "OUT_OF_RANGE"


class Unimplemented(MoltbotError):
    """This server does not offer the operation."""

    code = 12
    default_reason = "UNIMPLEMENTED"


class Internal(MoltbotError):
    """A defect of ours. The text shown to the caller is generic; the log has the rest."""

    code = 13
    default_reason = "INTERNAL"


class Unavailable(MoltbotError):
    """The other side cannot be reached or is not ready; a retry may succeed."""

    code = 14
    default_reason = "UNAVAILABLE"


class DataLoss(MoltbotError):
    """Stored data is damaged."""

    code = 15
    default_reason = "DATA_LOSS"


class Unauthenticated(MoltbotError):
    """The caller did not prove who it is."""

    code = 16
    default_reason = "UNAUTHENTICATED"


BY_CODE: dict[int, type[MoltbotError]] = {
    error.code: error
    for error in (
        Cancelled,
        MoltbotError,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}
"""The error class of each code in google/rpc/code.proto."""
