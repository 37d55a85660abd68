"""Whether a model's calls leave the machine."""

from __future__ import annotations

import pytest

from moltbot_models.manifest import Manifest, leaves_the_machine


@pytest.mark.parametrize(
    ("endpoint", "leaves"),
    [
        ("", False),
        ("unix:/run/model.sock:/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost/v1", False),
        ("http://[::1]:8000/v1", False),
        ("ws://[::1]/v1", False),
        ("127.0.0.1:8001", False),
        ("http://10.0.0.7:8000/v1", True),
        ("https://api.example.com/v1", True),
        ("http://localhost.example.com/v1", True),
        ("http://[2001:db8::1]:8000/v1", True),
        ("triton.example:8001", True),
    ],
)
def test_a_call_leaves_the_machine_unless_its_endpoint_is_on_it(endpoint, leaves):
    assert leaves_the_machine(Manifest("m", "text-generation", "openai", endpoint)) is leaves
