from __future__ import annotations

import pytest

from moltbot_mesh.module import Module, in_order


def modules(**needs: tuple[str, ...]) -> dict[str, Module]:
    return {name: Module(name, needed, lambda _: None) for name, needed in needs.items()}  # type: ignore[arg-type]


def names(found) -> list[str]:
    return [module.name for module in found]


def test_what_is_needed_comes_first_and_once():
    there = modules(gateway=("router", "audit"), router=("audit",), audit=(), tool=())
    assert names(in_order(there, ["gateway"])) == ["audit", "router", "gateway"]


def test_a_target_that_another_needs_is_opened_once():
    there = modules(gateway=("audit",), audit=())
    assert names(in_order(there, ["audit", "gateway", "audit"])) == ["audit", "gateway"]


def test_an_unknown_target_gets_the_list():
    with pytest.raises(ValueError, match=r"no module is named 'gatway'; there are: audit"):
        in_order(modules(audit=()), ["gatway"])


def test_an_unknown_need_names_who_needs_it():
    with pytest.raises(ValueError, match=r"'audt', needed by gateway"):
        in_order(modules(gateway=("audt",)), ["gateway"])


def test_a_circle_is_shown():
    with pytest.raises(ValueError, match="a → b → a"):
        in_order(modules(a=("b",), b=("a",)), ["a"])
