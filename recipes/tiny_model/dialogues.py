"""Whole conversations: a setting, and exchanges of many skills one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiny_model import offers, words
from tiny_model.conversation import Exchange, Said, Setting
from tiny_model.skills import calculator, clock, memory, prose, sql_lookup, talk, units

if TYPE_CHECKING:
    import random

# Tables are the hardest: three names to find, none of them known beforehand.
_SHARES = {"calculator": 1.0, "clock": 1.1, "convert_units": 1.0, "sql_lookup": 3.5}
_UNANSWERED = 0.5
"""Conversations with calls that end with the call: the answer is learnt sooner, and its rows are long."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A setting with all that the conversations in it have to agree on."""

    setting: Setting
    tables: dict[str, list[str]]
    remembered: tuple[memory.Fact, ...] = ()


def scene(rng: random.Random, *, all_tools: bool = False, held_out_values: bool = False) -> Scene:
    """Draw a setting: which tools, in which order and words; what the system turn says."""
    tables = sql_lookup.tables(rng, held_out_values)
    kind = rng.random()
    names = list(offers.NAMES)
    if not all_tools:
        if kind < 0.17:
            names = names[:3]
        elif kind < 0.32:
            names = rng.sample(names, rng.randint(1, 3))
        elif kind < 0.50:
            names = []
    if rng.random() < 0.25:
        rng.shuffle(names)
    system = rng.choice(offers.SYSTEMS) if rng.random() < 0.35 else ""
    remembered: tuple[memory.Fact, ...] = ()
    if not all_tools and rng.random() < 0.32:
        remembered = tuple(
            {f.key: f for f in (memory.fact(rng, False, held_out_values) for _ in range(rng.randint(1, 4)))}.values()
        )
        system = (system + "\n" if system else "") + memory.memory_lines(rng, list(remembered))
    return Scene(Setting(system, offers.offers(rng, names, tables)), tables, remembered)


def call(rng: random.Random, there: Scene, held_out_phrasing: bool = False, held_out_values: bool = False) -> Exchange:
    """A question for one of the tools that are there."""
    names = there.setting.tool_names
    name = rng.choices(names, [_SHARES[name] for name in names])[0]
    if name == "sql_lookup":
        described = next(
            tool["function"]["description"] for tool in there.setting.tools if tool["function"]["name"] == name
        )
        listed = all(table in described for table in there.tables)
        return sql_lookup.exchange(rng, held_out_phrasing, held_out_values, there.tables, listed=listed)
    skill = {"calculator": calculator, "clock": clock, "convert_units": units}[name]
    return skill.exchange(rng, held_out_phrasing, held_out_values)


def plain(rng: random.Random, there: Scene) -> Exchange:
    """An exchange without a tool."""
    kind = rng.random()
    if kind < 0.35:
        return talk.small_talk(rng, False)
    if kind < 0.72 or len(there.setting.tools) == len(offers.NAMES):
        return talk.refusal(rng, False, False)
    missing = talk.missing_tool(rng, False, False)
    return missing if missing.unless not in there.setting.tool_names else talk.small_talk(rng, False)


def recall(
    rng: random.Random,
    there: Scene,
    held_out_phrasing: bool = False,
    held_out_values: bool = False,
    between: int = 1,
    told: tuple[int, ...] = (1, 1, 2, 2, 3),
) -> list[Exchange]:
    """Facts told (one of the numbers `told`), other matters, facts asked for; some were never told."""
    count = rng.choice(told)
    facts = {fact.key: fact for fact in (memory.fact(rng, held_out_phrasing, held_out_values) for _ in range(count))}
    known = {**{fact.key: fact for fact in there.remembered}, **facts}
    out = [Exchange("told", memory.tell(rng, fact)) for fact in facts.values()]
    out += [
        call(rng, there) if there.setting.tools and rng.random() < 0.5 else plain(rng, there)
        for _ in range(rng.randint(0, between))
    ]
    for fact in rng.sample(list(facts.values()), min(len(facts), rng.randint(1, 2))):
        out.append(memory.ask(rng, fact, known=True, held_out_phrasing=held_out_phrasing))
    if rng.random() < 0.3:
        other = not_told(rng, known, held_out_phrasing, held_out_values)
        out.insert(rng.randint(len(facts), len(out)), other)
    return out


def not_told(
    rng: random.Random, known: dict[str, memory.Fact], held_out_phrasing: bool = False, held_out_values: bool = False
) -> Exchange:
    """A question for a fact that nobody told."""
    while True:
        other = memory.fact(rng, held_out_phrasing, held_out_values)
        if other.key not in known and not (
            other.key.startswith("pet") and any(key.startswith("pet") for key in known) and rng.random() < 0.5
        ):
            return memory.ask(rng, other, known=False, held_out_phrasing=held_out_phrasing)


def conversation(rng: random.Random, there: Scene) -> list[Said]:
    """A conversation of one to some turns in a setting."""
    kind = rng.random()
    out: list[Exchange] = []
    if there.remembered and kind < 0.7:
        known = {fact.key: fact for fact in there.remembered}
        asked = rng.choice(there.remembered)
        out.append(memory.ask(rng, asked, known=True) if rng.random() < 0.87 else not_told(rng, known))
    elif kind < 0.42 and there.setting.tools:
        out = [call(rng, there) for _ in range(rng.choice((1, 1, 2)))]
        if rng.random() < _UNANSWERED:
            said = [said for exchange in out for said in exchange.messages]
            return said[:-2]
    elif kind < 0.72:
        out = recall(rng, there, told=(1, 2, 2, 3, 4))
    elif kind < 0.78:
        out = [not_told(rng, {fact.key: fact for fact in there.remembered})]
    elif kind < 0.91:
        out = [plain(rng, there) for _ in range(rng.choice((1, 1, 2)))]
        if there.setting.tools and rng.random() < 0.3:
            out.append(call(rng, there))
    elif kind < 0.97:
        out = [_repeat(rng)]
    else:
        out = [prose.exchange(rng, False)]
    return [said for exchange in out for said in exchange.messages]


def _repeat(rng: random.Random) -> Exchange:
    # Plain copying of strings that nobody can guess: the mechanism under calls, answers and recall.
    makers = (words.unknown, words.code, words.compound, lambda rng: words.name(rng, held_out=False))
    text = rng.choice((" ", " ", ", ", "-", '","')).join(rng.choice(makers)(rng) for _ in range(rng.randint(2, 7)))
    return Exchange(
        "repeat",
        [Said("user", rng.choice(("Repeat: ", "Say: ", "Repeat after me: ", "Echo ")) + text), Said("assistant", text)],
    )
