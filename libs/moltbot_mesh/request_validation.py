"""Whether a request is what its proto says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.api.httpbody_pb2 import HttpBody

from moltbot_mesh.errors import FieldViolation, InvalidArgument
from moltbot_mesh.one_request import Unreadable

if TYPE_CHECKING:
    import protovalidate
    from google.protobuf.message import Message


def check(request: Message | Unreadable, validator: protovalidate.Validator) -> None:
    """Check a request.

    Args:
        request: As it came.
        validator: Of its method; it compiles a message's rules once.

    Raises:
        InvalidArgument: It cannot be read, or breaks rules: each is named.
    """
    if isinstance(request, Unreadable):
        raise InvalidArgument(request.value, reason="MALFORMED_BODY")
    if isinstance(request, HttpBody):
        return  # raw bytes: nothing to check, and checking would serialise them
    violations = validator.collect_violations(request, fail_fast=False)
    if violations:
        found = [_violation(v) for v in violations]
        what = "; ".join(f"{v.field}: {v.description}" for v in found[:8])
        raise InvalidArgument(f"the request is not valid: {what}", violations=found)


def _violation(violation: protovalidate.Violation) -> FieldViolation:
    parts: list[str] = []
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        subscript = element.subscript
        parts.append(element.field_name + (f"[{subscript.value!r}]" if subscript is not None else ""))
    return FieldViolation(".".join(parts), violation.proto.message)
