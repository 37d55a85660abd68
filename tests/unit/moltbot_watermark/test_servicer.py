from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.call import Call, Principal, current_call, enter_call, leave_call
from moltbot_watermark.servicer import _searched

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _call() -> Iterator[None]:
    before = current_call()
    yield
    leave_call(before)


@pytest.mark.parametrize(
    ("principal", "asked", "searched"),
    [
        (Principal("key", "k", "acme", frozenset({"user"})), "", "acme"),
        (Principal("key", "k", "acme", frozenset({"user"})), "other", "acme"),
        (Principal("key", "k", "acme", frozenset({"auditor"})), "", ""),
        (Principal("key", "k", "acme", frozenset({"auditor"})), "other", "other"),
        (Principal("service", "gateway", "acme", frozenset({"service"})), "", "acme"),
        (Principal("service", "daemon", "", frozenset({"service"})), "", ""),
    ],
)
def test_only_operators_and_services_search_beyond_their_tenant(
    principal: Principal, asked: str, searched: str
) -> None:
    enter_call(Call("/moltbot.watermark.v1.WatermarkService/Detect", principal))
    assert _searched(asked) == searched
