from __future__ import annotations

import protovalidate
import pytest
from google.api.httpbody_pb2 import HttpBody
from moltbot.router.v1 import router_pb2

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.request_validation import check


def test_a_violation_names_its_place_as_the_client_wrote_it():
    validator = protovalidate.Validator()
    request = router_pb2.ReportOutcomesRequest(
        outcomes=[router_pb2.CallOutcome(outcome=router_pb2.OUTCOME_OK, model="x" * 200)]
    )
    with pytest.raises(InvalidArgument) as raised:
        check(request, validator)
    assert [violation.field for violation in raised.value.violations] == ["outcomes[0].model"]
    check(HttpBody(data=b"anything"), validator)
