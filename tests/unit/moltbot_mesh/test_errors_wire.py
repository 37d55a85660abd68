from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from moltbot_mesh.errors import BY_CODE, FieldViolation, Internal, MoltbotError, Unavailable
from moltbot_mesh.errors_wire import STATUS_DETAILS, from_rpc_error, from_status, status_code, to_status


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_the_class_it_was(kind):
    error = kind(
        "what, where, how",
        reason="SOME_REASON",
        metadata={"a": "b"},
        violations=[FieldViolation("x[0].y", "is wrong")],
        retry_after_s=0.25,
    )
    back = from_status(to_status(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert status_code(error).value[0] == kind.code


def test_an_error_without_details_has_none_on_the_wire():
    back = from_status(to_status(Unavailable("no")))
    assert (back.reason, back.violations, back.retry_after_s, back.metadata) == ("UNAVAILABLE", (), None, {})


def test_a_retry_at_once_is_not_no_retry():
    assert from_status(to_status(Unavailable("no", retry_after_s=0.0))).retry_after_s == 0.0


def test_the_request_is_named_without_changing_the_error():
    error = Unavailable("no")
    assert from_status(to_status(error, "r-1")).metadata == {"request_id": "r-1"}
    assert error.metadata == {}


def rpc_error(code: grpc.StatusCode, text: str | None, *trailing: tuple[str, bytes]) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailing), text)


def test_a_failure_of_the_transport_names_the_service():
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused"), "audit")
    assert isinstance(error, Unavailable)
    assert error.message == "audit: connection refused"
    assert error.metadata == {"service": "audit"}


def test_a_failure_without_a_text_has_its_code_for_one():
    assert from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, None), "audit").message == "audit: unavailable"


def test_details_that_are_not_ours_leave_code_and_text():
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "odd", (STATUS_DETAILS, b"\xff\xff\xff")), "audit")
    assert (type(error), error.message) == (Unavailable, "audit: odd")


def test_an_unknown_code_is_internal():
    status = to_status(MoltbotError("?"))
    status.code = 99
    assert type(from_status(status)) is Internal
