from __future__ import annotations

import os
import pwd

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.administration import administration_event, waiting
from moltbot_mesh.errors import InvalidArgument


def recorded(directory) -> audit_pb2.AuditEvent:
    administration_event(directory / "cli" / "audit-spill", "keys create", "key 1", "acme")
    (path,) = waiting(directory / "cli" / "audit-spill")
    assert path.stat().st_mode & 0o777 == 0o600
    return audit_pb2.AuditEvent.FromString(path.read_bytes())


@pytest.mark.parametrize("name", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_who_acted_is_who_the_system_says_whatever_the_environment_says(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "somebody-else")
    event = recorded(tmp_path)
    assert event.subject == f"os-user:{pwd.getpwuid(os.getuid()).pw_name}"
    assert (event.action, event.object, event.tenant) == ("keys create", "key 1", "acme")


def test_a_user_without_a_name_is_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert recorded(tmp_path).subject == "os-user:4000000000"


def test_an_event_that_the_log_would_refuse_is_not_written(tmp_path):
    with pytest.raises(InvalidArgument, match=r"audit sql: .*65536"):
        administration_event(tmp_path / "spill", "audit sql", "log", "", facts={"statement": "x" * 65_536})
    assert waiting(tmp_path / "spill") == []
