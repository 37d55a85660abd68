"""Unit tests reach no network: a socket that leaves the machine is a defect of the test."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_socket import disable_socket, enable_socket

_UNIT = Path(__file__).parent / "unit"


@pytest.fixture(autouse=True)
def _no_network(request):
    if not request.path.is_relative_to(_UNIT):
        yield
        return
    # Unix sockets stay open: servers of the tests listen on them, and event loops wake themselves through a pair.
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
