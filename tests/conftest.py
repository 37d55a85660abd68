"""Unit tests reach no network: a socket that leaves the machine is a defect of the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from pytest_socket import disable_socket, enable_socket

# As the command line does, and before gRPC is imported: its fork handlers stop connections while a child is started.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
_UNIT = Path(__file__).parent / "unit"
# How long an example takes is the machine's affair.
settings.register_profile("moltbot", deadline=None)
settings.load_profile("moltbot")


@pytest.fixture(autouse=True)
def _no_network(request):
    if not request.path.is_relative_to(_UNIT):
        yield
        return
    # Unix sockets stay open: servers of the tests listen on them, and event loops wake themselves through a pair.
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
