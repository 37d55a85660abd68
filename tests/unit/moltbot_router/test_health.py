"""The circuit breaker counts what says something about the model, and no outage twice."""

from __future__ import annotations

from moltbot_models.manifest import Manifest
from moltbot_router.health import Breaker, Health
from moltbot_router.policy import Policy, Table, Wanted
from moltbot_router.rules import Rule, Strategy


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock, model: str = "a") -> Health:
    health = Health(failures=3, open_s=5.0, clock=clock)
    for _ in range(3):
        health.started(model)
        health.ended(model, ok=False)
    assert health.breaker(model) is Breaker.OPEN
    return health


def policy_of(health: Health) -> tuple[Policy, Table]:
    models = {name: Manifest(name, "text-generation", "openai") for name in ("a", "b")}
    rule = Rule("chat", ("a", "b"), Strategy.PRIORITY)
    return Policy(health), Table(1, models, {"chat": rule})


WANTED = Wanted("acme", "text-generation", task_type="chat")


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_the_outage():
    clock = Clock()
    health = Health(failures=3, open_s=5.0, clock=clock)
    for _ in range(50):
        health.started("a")
    for _ in range(50):
        health.ended("a", ok=False)
    assert health.opens_in_s("a") == 5.0


def test_each_failed_try_doubles_the_wait_up_to_a_minute():
    clock = Clock()
    health = opened(clock)
    waits = []
    for _ in range(5):
        waits.append(health.opens_in_s("a"))
        clock.now_s += waits[-1]
        assert health.may_call("a")
        health.try_call("a")
        health.started("a")
        health.ended("a", ok=False)
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0]


def test_a_half_open_breaker_lets_one_call_through_at_a_time():
    clock = Clock()
    health = opened(clock)
    clock.now_s += 5.0
    assert health.may_call("a")
    health.try_call("a")
    assert not health.may_call("a")
    health.started("a")
    health.ended("a", ok=True)
    assert health.breaker("a") is Breaker.CLOSED


def test_a_try_that_never_reports_is_given_up():
    clock = Clock()
    health = opened(clock)
    clock.now_s += 5.0
    health.try_call("a")
    clock.now_s += 5.0
    assert health.may_call("a")


def test_a_route_that_names_a_half_open_model_second_does_not_use_up_its_try():
    clock = Clock()
    policy, table = policy_of(opened(clock, "b"))
    clock.now_s += 5.0
    routes = [policy.decide(table, WANTED).models for _ in range(3)]
    assert routes == [("a", "b")] * 3


def test_a_half_open_model_that_is_first_is_tried_by_one_route():
    clock = Clock()
    policy, table = policy_of(opened(clock, "a"))
    clock.now_s += 5.0
    assert [policy.decide(table, WANTED).models for _ in range(2)] == [("a", "b"), ("b",)]
