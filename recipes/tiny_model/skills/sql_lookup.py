"""Tables: names of table, column and value go from the question into the call, the rows into the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tiny_model import frames, lexicon
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand, question
from tiny_model.words import CITIES, COLORS, code, compound, made_up, name, unknown

if TYPE_CHECKING:
    import random

TABLES = [
    "employees",
    "customers",
    "orders",
    "products",
    "users",
    "invoices",
    "cities",
    "books",
    "suppliers",
    "accounts",
    "tickets",
    "devices",
    "rooms",
    "students",
    "courses",
    "patients",
    "flights",
    "hotels",
    "movies",
    "songs",
    "teams",
    "players",
    "cars",
    "stores",
    "items",
    "payments",
    "contacts",
    "projects",
    "tasks",
    "members",
]
HELD_OUT_TABLES = ["warehouses", "contracts", "vehicles", "sensors", "shipments", "recipes"]
COLUMNS = [
    "name",
    "id",
    "email",
    "city",
    "status",
    "price",
    "title",
    "color",
    "country",
    "category",
    "owner",
    "phone",
    "department",
    "code",
    "type",
    "role",
    "level",
    "year",
    "author",
    "age",
    "date",
    "customer",
    "product",
    "room",
    "number",
    "state",
    "size",
    "brand",
]
HELD_OUT_COLUMNS = ["region", "supplier", "salary", "language", "model", "zip"]
CALLS = [
    "Look up {v} in the {c} column of {t}",
    "Look up {c} {v} in {t}",
    "Look up {c} {v} in the {t} table",
    "Look up the row in {t} where {c} is {v}",
    "Find {t} where {c} is {v}",
    "Find {t} where {c} is {v}",
    "Find [rows|entries|the row|the rows] in {t} where {c} [is|equals] {v}",
    "Find {t} with {c} {v}",
    "[Search|Query|Check] [the|] {t} table for {c} {v}",
    "[Search|Query|Check] {t} for {c} {v}",
    "[Search|Query] {t} where {c} = {v}",
    "Which {t} have {c} {v}?",
    "Which {t} have the {c} {v}?",
    "Show [me|] [the|all|] {t} whose {c} is {v}",
    "[Show|List|Get|Fetch] [me|] [the|all|] {t} with {c} {v}",
    "[Get|Fetch|Retrieve] the row from {t} with {c} {v}",
    "[Get|Fetch|Retrieve|List] [rows|records|entries] from {t} where {c} is {v}",
    "In [the|] table {t}, find {c} {v}",
    "In {t}, [find|look up|search] {c} {v}",
    "In {t}, which [rows|entries] have {c} {v}?",
    "Who in {t} has {c} {v}?",
    "Is there [a row|an entry|a record] in {t} with {c} {v}?",
    "Is there a {c} {v} in [the|] {t} [table|]?",
    "What does {t} say [about|for] {c} {v}?",
    "What do we [have|know] in {t} [for|about] {c} {v}?",
    "What is in {t} [for|under] {c} {v}?",
    "Table {t}, column {c}, value {v}",
    "{t} where {c} = {v}",
    "[Can|Could] you [find|look up|get|show me] [the|] {t} with {c} {v}?",
    "[Tell|Give] me [the|] {t} [with|whose] {c} [is|equal to|of] {v}",
    "Use the {t} table and find {c} {v}",
    "I need [the record|the row|the entry|everything] in {t} [with|where] {c} [is|=|equals] {v}",
    "Do we have {t} with {c} {v}?",
    "Look in {t} for [the|] {c} {v}",
    "Select from {t} where {c} = {v}",
    "Which rows of {t} have {v} as {c}?",
    "Find {v} in column {c} of table {t}",
    "Find {v} in the {c} column of the {t} table",
    "Look for {v} under {c} in {t}",
    "Search column {c} of {t} for {v}",
    "Find the {t} by {c}: {v}",
    "[find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] [me|us|] [the|all|every|any|some|] [row|rows|record|records|entry|entries|line|lines|data|item|items] [in|from|of|inside|out of] [the|table|our|my|] {t} [table|] [where|for which|in which|whose|with|that has|that have|having|when|if] [the|] {c} [is|=|equals|is equal to|matches|==|has the value|reads|says|being|of|:] {v}",
    "[find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] [me|us|] [the|all|every|any|some|our|] {t} [table|[row|rows|record|records|entry|entries|line|lines|data|item|items]|] [where|for which|in which|whose|with|that has|that have|having|when|if] [the|] {c} [is|=|equals|is equal to|matches|==|has the value|reads|says|being|of|:] {v}",
    "[find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] [me|us|] [the|all|every|any|some|our|] {t} [with|by|for|having|under|of|on] [the|a|] {c} {v}",
    "[Can|Could|Would|Will] you [please|kindly|quickly|] [find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] [me|] [the|all|our|] {t} [[row|rows|record|records|entry|entries|line|lines|data|item|items]|] [where|for which|in which|whose|with|that has|that have|having|when|if] [the|] {c} [is|=|equals|is equal to|matches|==|has the value|reads|says|being|of|:] {v}?",
    "[I|We] [want|need|would like|have|wish] to [find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] [the|all|] {t} [[row|rows|record|records|entry|entries|line|lines|data|item|items]|] [where|for which|in which|whose|with|that has|that have|having|when|if] {c} [is|=|equals|is equal to|matches|==|has the value|reads|says|being|of|:] {v}",
    "[I|We] [want|need|would like|ask for|am looking for|search] [the|all|a|any|] {t} [[row|rows|record|records|entry|entries|line|lines|data|item|items]|] [where|for which|in which|whose|with|that has|that have|having|when|if] {c} [is|=|equals|is equal to|matches|==|has the value|reads|says|being|of|:] {v}",
    "[In|From|Inside|Out of|Within|Under] [the|our|table|] {t} [table|], [find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] [the|all|a|] [[row|rows|record|records|entry|entries|line|lines|data|item|items]|] [with|by|for|where] [the|] {c} [is|=|] {v}",
    "[In|From|Inside|Out of|Within] [the|our|] {t}, [who|what|which one|which [row|rows|record|records|entry|entries|line|lines|data|item|items]] has [the|] {c} {v}?",
    "[Are|Is] there [any|a|an|some|one] [[row|rows|record|records|entry|entries|line|lines|data|item|items]|] [in|inside|among|of] [the|our|] {t} [with|where|having|whose] [the|] {c} [is|=|] {v}?",
    "[Do|Does|Did] [we|you|the database|I|they|our table] [have|know|hold|keep|list|store|see] [any|some|a|] {t} [with|where|for|having|by] [the|] {c} [is|=|] {v}?",
    "[Do|Does] [the|our|] {t} [table|] [have|hold|know|list|include|show|keep] [a|any|the|] {c} [called|named|equal to|of|like|] {v}?",
    "[What|Which] [row|rows|record|records|entry|entries|line|lines|data|item|items] [of|in|from] {t} [has|have|match|matches|fit|belong to] [the|] {c} {v}?",
    "[What|Which] [of the|of our|] {t} [has|have|match|matches|got|belong to] [the|a|] {c} {v}?",
    "[What|How much] [do|can] [you|we] [know|find|read|see|learn] [in|from] {t} [about|for|under|on|with] {c} {v}?",
    "[Table|Database|Query|Lookup|Search] {t}[:|,|;| -] {c} [is|=|:|equals|] {v}",
    "{t}[:|,|;| -] {c} [is|=|:|equals|] {v}",
    "{t} [by|with|for|whose|having] {c} [is|=|:|equals|] {v}",
    "{c} {v} [in|from|of|inside] [the|table|our|] {t}[ table|][?|, please|]",
    "[The|A|My|Our] {c} is {v}[. |, |; ][find|look up|search|check|show] [it|this|that|the row] in {t}",
    "[find|get|show|list|look up|search|fetch|give|read|select|return|print|open|take|check|load|view|retrieve] {v} as [the|a|] {c} [in|of|from] [the|] {t}",
    "[Look|Go|Search|Dig|Walk|Read|Scan] [into|over|in|around|across] [the|our|] {t} [table|] [for|to find|and get|and show] [the|a|] {c} {v}",
    "[Tell|Give|Show|Send] [me|us] [what|everything|all] [is in|you have in|we know from|stands in] {t} [for|about|under|with] [the|] {c} {v}",
    "[Filter|Narrow|Limit|Reduce] [the|our|] {t} [table|] [to|by|on] [the|] {c} [=|is|] {v}",
    "[The|All|Those] {t} [where|for which|in which|whose|with|that has|that have|having|when|if] [the|] {c} [is|=|equals|is equal to|matches|==|has the value|reads|says|being|of|:] {v}[, please|, show me|]",
    "Who [is|are] [the|our|] {t} [with|by|having] {c} {v}?",
    "[Does|Did|Do] {v} [appear|occur|show up|turn up|exist|stand|count] [as|under|for|in] [a|the|] {c} [in|of|inside|on] [the|our|] {t}?",
    "[Which|What] {t} [go with|come with|carry|bear|use|store|are of|are under|are filed under] [the|] {c} {v}?",
    "{v} [is|was|should be|must be] [the|a|some] {c} [in|of] [the|our|] {t}[. Show it|. Find it|, who is it|, get it|?|]",
    "[Print|Open|Dump|Export|Locate|Trace|Spot|Discover|Identify|Collect] [all|the|our|] {t} [that carry|with|where|by] [the|] {c} [=|is|] {v}",
    "[Who|What] [goes|is filed|is stored|is found|is kept] [under|by|with] {c} {v} [in|of] [the|our|] {t}?",
    "[Whose|Which] {c} [in|of] [the|our|] {t} is {v}?",
    "[For|With|Under|Given] [the|] {c} {v}, [what|which|who] [is|are|do we have|comes up] in [the|our|] {t}?",
    "[How many|What|Which] {t} [are there|exist|do exist] [with|under|for|where] [the|] {c} [is|] {v}?",
    "[I|We] [have|got|only know|only have|know] [the|a|] {c} {v}[. |, |; ][what|who|which one] is it in [the|our|] {t}?",
    "[The|Our] {t} [table|list|records|file] [may|should|must|might] [have|hold|list] {v} [as|for|in] {c}[, check it|, look|, is it so|]",
    "[Run|Do|Make|Try] a [query|lookup|search] [on|over|in] {t} [for|with|where] {c} [=|is|] {v}",
    "[Row|Record|Entry|Line] [of|in|from] {t} [with|where] {c} [is|=|] {v}[ please|?|]",
    "{t} / {c} / {v}",
    "{t}.{c} = {v}",
    "{t}, {c}, {v}",
    "{t} {c} {v}",
    "{v} [in|under|as] {c}, [table|in] {t}",
    "[Select|select] [*|all|everything] from {t} where {c} = {v}",
    "{c} = {v} [in|from|of] {t}",
    "[Take|Check|Ask|Try|Use|Search] {v} [as|for|in] [the|] {c} [of|in] [the|our|] {t}[, what comes up|, who is it|]",
    "[Is|Was] {v} [in|under|inside] [the|our|] {c} [column|field|list|] of [the|our|] {t}?",
    "[Somebody|My boss|A colleague|The auditor] [asks for|wants|needs] [the|all|] {t} [with|of|where] [the|] {c} [is|] {v}",
    "[Everything|Anything|All|What] [in|from|of] {t} [that has|with|having] {v} [as|for|in] [its|the|] {c}[?|, please|]",
    "{v}: [which|what] {t} [have|has|use] it as [the|a|] {c}?",
    "[Which|What] {c} is {v}, and [in what|from which] [row|line] of {t}?",
]
HELD_OUT_CALLS = [
    "Pull the {t} record where {c} is {v}",
    "Go through {t} and find {c} {v}",
    "Does {t} contain {c} {v}?",
    "Bring up {t} with {c} {v}",
    "Consult the {t} table: {c} {v}",
    "From {t}, pick those with {c} {v}",
    "Any {t} where {c} equals {v}?",
    "See what {t} has for {c} {v}",
    "Is {v} a known {c} among {t}?",
    "Hand over whatever {t} hold for {c} {v}",
    "Which of our {t} show {v} under {c}?",
    "I am after {t} that list {c} as {v}",
]
_FREE_SHARE = 0.4
"""Questions to tables that the tool does not list, in which some words are others all the same."""
ANSWERS = ["I found this in {t}: {r}", "I found this in {t}: {r}", "The table {t} says: {r}"]


def tables(rng: random.Random, held_out: bool = False) -> dict[str, list[str]]:
    """Tables with columns, as an installation allows them.

    Most names are of an open vocabulary: with a list of tables the model learns the list, and takes any other word for a
    verb or a value.
    """
    count = rng.choice((1, 1, 2, 2, 3))
    if held_out:
        columns = HELD_OUT_COLUMNS + COLUMNS[:6]
        return {table: rng.sample(columns, rng.randint(2, 4)) for table in rng.sample(HELD_OUT_TABLES, count)}
    return {
        table: list(dict.fromkeys(_column(rng) for _ in range(rng.randint(2, 5))))
        for table in (_table(rng) for _ in range(count))
    }


def _table(rng: random.Random) -> str:
    while True:
        kind = rng.random()
        if kind < 0.30:
            table = rng.choice(TABLES)
        elif kind < 0.60:
            table = _plural(rng.choice(lexicon.NOUNS))
        elif kind < 0.72:
            table = _plural(compound(rng))
        else:
            table = unknown(rng) + ("s" if rng.random() < 0.6 else "")
        if table not in HELD_OUT_TABLES:
            return table


def _column(rng: random.Random) -> str:
    while True:
        kind = rng.random()
        if kind < 0.45:
            column = rng.choice(COLUMNS)
        elif kind < 0.70:
            column = rng.choice(lexicon.NOUNS)
        elif kind < 0.82:
            column = compound(rng)
        else:
            column = unknown(rng)
        if column not in HELD_OUT_COLUMNS:
            return column


def _plural(noun: str) -> str:
    if noun[-1] == "s":
        return noun
    if noun[-1] == "y" and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("x", "ch", "sh")) else "s")


def value_of(rng: random.Random, held_out: bool) -> str:
    """A value to look for."""
    kind = rng.random()
    if kind < 0.5:
        return name(rng, held_out)
    if kind < 0.8:
        return code(rng)
    if held_out:
        return made_up(rng)
    return unknown(rng) if kind < 0.95 else rng.choice((CITIES, COLORS)[kind < 0.97])


def exchange(
    rng: random.Random,
    held_out_phrasing: bool,
    held_out_values: bool,
    there: dict[str, list[str]],
    *,
    listed: bool = False,
) -> Exchange:
    """A question, the call, the rows and the answer.

    Args:
        rng: Source of choices.
        held_out_phrasing: Take a phrasing that training never sees.
        held_out_values: Take values that training never sees.
        there: Tables and their columns as the tool's description lists them.
        listed: Whether it lists them, so that table and column are known wherever they stand.
    """
    table = rng.choice(list(there))
    column, value = rng.choice(there[table]), value_of(rng, held_out_values)
    shown = f"{rng.choice(chr(34) + chr(39))}" if rng.random() < 0.1 else ""
    # Known phrasings stay as they are where the evaluation asks for them.
    free = not held_out_values and (listed or rng.random() < _FREE_SHARE)
    slots = {"t": table, "c": column, "v": value}
    asked = {**slots, "v": f"{shown}{value}{shown}"}
    if held_out_phrasing or not listed or rng.random() >= frames.LOOSE_SHARE:
        user = question(rng, CALLS, HELD_OUT_CALLS, asked, held_out_phrasing, free=free)
    else:
        user = frames.loose(rng, rng.sample(list(asked.values()), 3))
    rows = [
        {key: value if key == column else value_of(rng, held_out_values) for key in there[table][:4]}
        for _ in range(rng.choice((1, 1, 1, 2)))
    ]
    content = result = json.dumps(rows, separators=(",", ":"))
    answer = expand(rng, rng.choice(ANSWERS), {"t": table, "r": "\0"}).replace("\0", result)
    fate = rng.random()
    if fate < 0.15:
        content = result = "no rows"
        answer = f"There are no rows in {table} where {column} is {value}."
    elif fate < 0.22:
        content = result = rng.choice(
            [
                f"no table is named {table!r}; there are: none",
                f"arguments of sql_lookup do not match its schema: arguments.table: {table!r} is not one of its tables",
                f"table {table} has no column {column!r}",
                "the database cannot be read",
            ]
        )
        answer = f"That did not work: {result}."
    call = ("sql_lookup", {"table": table, "column": column, "value": value})
    said = [Said("user", user), Said("assistant", "", call), Said("tool", content), Said("assistant", answer)]
    return Exchange("sql_lookup", said, expect=result, needs="sql_lookup")
