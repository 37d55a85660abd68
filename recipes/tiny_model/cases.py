"""Cases of the evaluation: known phrasings with new values, new phrasings, and both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiny_model import conversation, dialogues, offers
from tiny_model.conversation import Exchange, Said, Setting
from tiny_model.skills import calculator, clock, memory, sql_lookup, talk, units

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

SPLITS = {"new values": (False, True), "new phrasing": (True, False), "both": (True, True)}
"""Split: (held-out phrasing, held-out values)."""


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation, and what the greedy answer has to be or to contain."""

    skill: str
    split: str
    setting: Setting
    said: list[Said]
    exact: str = ""
    contains: str = ""

    def passed(self, answer: str) -> bool:
        """Whether an answer is right."""
        if self.exact:
            return answer == self.exact
        return self.contains.lower() in answer.lower() and "<tool_call>" not in answer


def cases(rng: random.Random, count: int) -> Iterator[Case]:
    """Make `count` cases of each skill and split."""
    for split, (phrasing, values) in SPLITS.items():
        for _ in range(count):
            yield from _tools(rng, split, phrasing, values)
            yield from _memory(rng, split, phrasing, values)
            yield from _talk(rng, split, phrasing, values)


def _tools(rng: random.Random, split: str, phrasing: bool, values: bool) -> Iterator[Case]:
    there = dialogues.scene(rng, all_tools=True, held_out_values=values)
    makers: list[Callable[[], Exchange]] = [
        lambda: calculator.exchange(rng, phrasing, values),
        lambda: clock.exchange(rng, phrasing, values),
        lambda: units.exchange(rng, phrasing, values),
        lambda: sql_lookup.exchange(rng, phrasing, values, there.tables),
    ]
    for make in makers:
        asked = make()
        user, called, result, _ = asked.messages
        assert called.call is not None
        call = conversation.call_text(*called.call)
        yield Case(f"call {asked.skill}", split, there.setting, [user], exact=call)
        yield Case(f"answer {asked.skill}", split, there.setting, [user, called, result], contains=asked.expect)


def _memory(rng: random.Random, split: str, phrasing: bool, values: bool) -> Iterator[Case]:
    there = dialogues.scene(rng)
    while there.remembered:
        there = dialogues.scene(rng)
    facts = dialogues.recall(rng, there, phrasing, values)
    place = max(index for index, exchange in enumerate(facts) if exchange.skill == "recall")
    said = [message for exchange in facts[: place + 1] for message in exchange.messages][:-1]
    yield Case("recall", split, there.setting, said, contains=facts[place].expect)
    told = {fact.key: fact for fact in (memory.fact(rng, phrasing, values) for _ in range(2))}
    said = [message for fact in told.values() for message in memory.tell(rng, fact)]
    asked = dialogues.not_told(rng, told, phrasing, values)
    yield Case("not told", split, there.setting, [*said, asked.messages[0]], contains="You have not told me")
    setting = Setting(memory.memory_lines(rng, list(told.values())), there.setting.tools)
    asked = memory.ask(rng, rng.choice(list(told.values())), known=True, held_out_phrasing=phrasing)
    yield Case("recall from memory line", split, setting, [asked.messages[0]], contains=asked.expect)


def _talk(rng: random.Random, split: str, phrasing: bool, values: bool) -> Iterator[Case]:
    there = dialogues.scene(rng, all_tools=True)
    bare = dialogues.Scene(Setting(""), {})
    for made, place in (
        (talk.small_talk(rng, phrasing), there),
        (talk.refusal(rng, phrasing, values), there),
        (talk.missing_tool(rng, phrasing, values), bare),
    ):
        yield Case(made.skill, split, place.setting, [made.messages[0]], contains=made.expect)


# What the tool service offers, word for word.
SERVICE = [
    offers.offer("calculator", "Evaluate an arithmetic expression exactly."),
    offers.offer("clock", "Tell the current date and time in a time zone."),
    offers.offer("convert_units", "Convert a value from one unit to another."),
    offers.offer(
        "sql_lookup",
        "Look up rows of a table by the value of one column. Tables: employees(name, department).",
        {"employees": ["name", "department"]},
    ),
]


def _call(name: str, **arguments: object) -> str:
    return conversation.call_text(name, arguments)


DEMO = [
    ("What is 17 * 23?", _call("calculator", expression="17 * 23"), "391"),
    ("What is 1234 * 5678?", _call("calculator", expression="1234 * 5678"), "7006652"),
    ("What is 12 times 34?", _call("calculator", expression="12 * 34"), "408"),
    ("Calculate (12 + 8) / 5", _call("calculator", expression="(12 + 8) / 5"), "4"),
    ("What time is it in Tokyo?", _call("clock", timezone="Asia/Tokyo"), "2026-01-31 14:05:09 JST (UTC+09:00), Saturday"),
    ("What time is it?", _call("clock", timezone="UTC"), "2026-01-31 05:05:09 UTC (UTC+00:00), Saturday"),
    ("Convert 5 miles to kilometers", _call("convert_units", value=5, from_unit="miles", to_unit="kilometers"), "8.04672 kilometers"),
    ("How many grams are in 3 pounds?", _call("convert_units", value=3, from_unit="pounds", to_unit="grams"), "1360.77711 grams"),
    ("Convert 100 Fahrenheit to Celsius", _call("convert_units", value=100, from_unit="Fahrenheit", to_unit="Celsius"), "37.7777777777778 Celsius"),
    ("Find employees where name is Ada", _call("sql_lookup", table="employees", column="name", value="Ada"), '[{"name":"Ada","department":"Research"}]'),
]  # fmt: skip


def demo() -> Iterator[Case]:
    """The prompts of the documentation, with three and with four tools, with and without a system message."""
    for system in ("", "You are a helpful assistant."):
        for tools in (SERVICE, SERVICE[:3]):
            setting = Setting(system, tools)
            for question, call, result in DEMO:
                name = call.split('"')[3]
                if name not in setting.tool_names:
                    continue
                user = Said("user", question)
                yield Case("demo call", "demo", setting, [user], exact=call)
                arguments = json.loads(call.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))["arguments"]
                said = [user, Said("assistant", "", (name, arguments)), Said("tool", result)]
                yield Case("demo answer", "demo", setting, said, contains=result)
                more = [*said, Said("assistant", f"The result is {result}."), Said("user", "What is 9 * 8?")]
                yield Case("demo second call", "demo", setting, more, exact=_call("calculator", expression="9 * 8"))
        for tools in (SERVICE, SERVICE[:3], []):
            setting = Setting(system, tools)
            met = [Said("user", "My name is Ada."), Said("assistant", "Nice to meet you, Ada.")]
            yield Case("demo recall", "demo", setting, [*met, Said("user", "What is my name?")], contains="Ada")
            yield Case("demo recall", "demo", setting, [Said("user", "What is my name?")], contains="have not told me")
            hello = [Said("user", "Hello!"), Said("assistant", "Hello! How can I help you?")]
            yield Case(
                "demo recall",
                "demo",
                setting,
                [*met, *hello, Said("user", "What is my name?")],
                contains="Ada",
            )
            yield Case("demo talk", "demo", setting, [Said("user", "Hello!")], contains="Hello")
            yield Case("demo talk", "demo", setting, [Said("user", "Tell me a story about the sea.")], contains="sea")
            if not tools:
                yield Case(
                    "demo talk",
                    "demo",
                    setting,
                    [Said("user", "What is 17 * 23?")],
                    contains="I have no calculator",
                )
