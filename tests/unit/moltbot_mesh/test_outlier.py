from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from moltbot_mesh.outlier import InstanceHealth, OutlierPolicy, choose

POLICY = OutlierPolicy(consecutive_failures=3, base_ejection_s=1.0, max_ejection_s=8.0)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Fake:
    name: str
    outstanding: int = 0
    is_connected: bool = True
    is_ejected: bool = False


def test_only_failures_in_a_row_eject() -> None:
    health = InstanceHealth(POLICY, Clock())
    for _ in range(5):
        assert not health.failed()
        assert not health.failed()
        health.succeeded()
    assert not health.is_ejected
    assert [health.failed() for _ in range(3)] == [False, False, True]
    assert health.is_ejected


def test_an_ejection_ends_by_itself_and_the_next_failure_doubles_it() -> None:
    clock = Clock()
    health = InstanceHealth(POLICY, clock)
    for _ in range(3):
        health.failed()
    lasted: list[float] = []
    for _ in range(6):
        began_s = clock.now_s
        while health.is_ejected:
            clock.now_s += 0.5
        lasted.append(clock.now_s - began_s)
        assert health.failed()
    assert lasted == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_failure_during_an_ejection_does_not_lengthen_it() -> None:
    clock = Clock()
    health = InstanceHealth(POLICY, clock)
    for _ in range(50):
        health.failed()
    clock.now_s += 1.0
    assert not health.is_ejected


def test_a_success_after_an_ejection_forgets_all_that_was() -> None:
    clock = Clock()
    health = InstanceHealth(POLICY, clock)
    for _ in range(3):
        health.failed()
    clock.now_s += 1.0
    health.failed()
    clock.now_s += 2.0
    health.succeeded()
    assert [health.failed() for _ in range(3)] == [False, False, True]
    clock.now_s += 1.0
    assert not health.is_ejected


def test_one_whose_ejection_is_over_is_failing_until_it_answers() -> None:
    clock = Clock()
    health = InstanceHealth(POLICY, clock)
    for _ in range(3):
        assert not health.is_failing
        health.failed()
    clock.now_s += 1.0
    assert health.is_failing
    assert not health.is_ejected
    health.succeeded()
    assert not health.is_failing


def test_an_answer_does_not_end_an_ejection_but_good_health_does() -> None:
    health = InstanceHealth(POLICY, Clock())
    assert health.eject()
    health.succeeded()
    assert health.is_ejected
    health.recovered()
    assert not health.is_ejected


@given(loads=st.lists(st.integers(0, 50), min_size=2, max_size=8, unique=True), seed=st.integers())
def test_the_most_loaded_is_never_chosen(loads: list[int], seed: int) -> None:
    chosen = choose([Fake(str(load), load) for load in loads], random.Random(seed))
    assert chosen is not None
    assert chosen.outstanding < max(loads)


def test_of_equals_each_is_chosen() -> None:
    rng = random.Random(1)
    instances = [Fake(name) for name in "abc"]
    assert {choose(instances, rng).name for _ in range(100)} == {"a", "b", "c"}


def test_one_that_is_connected_goes_before_one_with_less_to_do() -> None:
    instances = [Fake("connected", outstanding=9), Fake("connecting", is_connected=False)]
    assert choose(instances, random.Random(1)).name == "connected"


def test_one_that_is_ejected_is_left_out_unless_all_are() -> None:
    rng = random.Random(1)
    instances = [Fake("a", is_ejected=True), Fake("b", outstanding=99), Fake("c", is_ejected=True)]
    assert {choose(instances, rng).name for _ in range(50)} == {"b"}
    instances[1].is_ejected = True
    assert {choose(instances, rng).name for _ in range(50)} == {"a", "c"}


def test_without_instances_there_is_none_to_choose() -> None:
    assert choose([], random.Random(1)) is None
