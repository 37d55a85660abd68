"""What is kept of a request, and whom it is about."""

from __future__ import annotations

import json

from moltbot.gateway.v1 import gateway_pb2 as pb

from moltbot_audit.redaction import redact_body, rules_of
from moltbot_gateway.servicer import _as_json

KEY = "sk-" + "a1" * 12


def test_a_typed_request_is_kept_as_json_that_stays_json_when_it_is_redacted():
    message = pb.Message(role=pb.ROLE_USER, content=f"密钥:\n{KEY}")
    request = pb.ChatRequest(model="m", messages=[message], mesh=pb.MeshOptions(end_user="alice"))
    asked = _as_json(request)
    assert "密钥".encode() in asked
    kept = json.loads(redact_body(asked, rules_of(["api_key"], {}))[0])
    assert kept["messages"][0]["content"] == "密钥:\n[api_key]"
    assert kept["mesh"] == {"end_user": "alice"}
