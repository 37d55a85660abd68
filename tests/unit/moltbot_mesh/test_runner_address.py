"""The address that others are told is one they can reach."""

from __future__ import annotations

import pytest

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.runner import advertised


@pytest.mark.parametrize(
    ("listen", "port", "told"),
    [
        ("127.0.0.1:0", 4321, "127.0.0.1:4321"),
        ("10.0.0.7:9001", 9001, "10.0.0.7:9001"),
        ("[::1]:0", 4321, "[::1]:4321"),
        ("unix:/run/mesh.sock", 1, "unix:/run/mesh.sock"),
    ],
)
def test_without_an_address_of_its_own_it_is_where_it_listens(listen, port, told):
    assert advertised("", listen, port) == told


def test_an_address_that_is_set_is_told():
    assert advertised("gateway.local:9001", "0.0.0.0:9001", 9001) == "gateway.local:9001"


def test_an_address_that_is_set_without_a_port_gets_the_one_that_was_bound():
    assert advertised("gateway.local:0", "0.0.0.0:0", 4321) == "gateway.local:4321"


@pytest.mark.parametrize("listen", ["0.0.0.0:9001", "[::]:9001"])
def test_everywhere_is_nowhere(listen):
    with pytest.raises(InvalidArgument, match="advertise"):
        advertised("", listen, 9001)
