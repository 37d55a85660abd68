"""What is said of administrators' keys in the configuration is what the mesh does."""

from __future__ import annotations

import pytest

from moltbot_daemon.settings import Settings
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.settings import load


def loaded(tmp_path, text, environment=None):
    path = tmp_path / "moltbot.yaml"
    path.write_text(f"security:\n  {text}\n")
    return load(Settings, path, environment or {}, {}).security


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_off_without_quotes_turns_the_second_factor_off(tmp_path, written):
    assert loaded(tmp_path, f"second_factor: {written}").policy() is None


def test_the_environment_may_say_off_too(tmp_path):
    assert loaded(tmp_path, "lock_s: 60", {"MOLTBOT_SECURITY__SECOND_FACTOR": "off"}).policy() is None


@pytest.mark.parametrize("written", ["on", "optional"])
def test_what_it_does_not_know_is_refused(tmp_path, written):
    with pytest.raises(InvalidArgument, match="second_factor"):
        loaded(tmp_path, f"second_factor: {written}")


def test_each_setting_is_the_one_that_the_policy_has(tmp_path):
    policy = loaded(tmp_path, "{session_idle_s: 60, session_s: 600, wrong_codes: 3, lock_s: 30}").policy()
    assert policy is not None
    assert (policy.idle_s, policy.session_s, policy.failures, policy.lock_s) == (60, 600, 3, 30)
