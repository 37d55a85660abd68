"""The tools as a tool service offers them, with descriptions in many words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

DESCRIPTIONS = {
    "calculator": [
        "Evaluate an arithmetic expression exactly.",
        "Evaluate an arithmetic expression exactly.",
        "Evaluates arithmetic expressions.",
        "Calculator for arithmetic.",
        "Computes the value of a mathematical expression.",
        "Do arithmetic: + - * / and parentheses.",
        "Evaluate an arithmetic expression, e.g. (12 + 8) / 5.",
        "Exact arithmetic.",
    ],
    "clock": [
        "Tell the current date and time in a time zone.",
        "Tell the current date and time in a time zone.",
        "Current date and time.",
        "Returns the time in a time zone.",
        "Get the current time in an IANA time zone, e.g. Asia/Tokyo.",
        "What time it is now, anywhere.",
        "Current time in a given timezone (default UTC).",
    ],
    "convert_units": [
        "Convert a value from one unit to another.",
        "Convert a value between units of one kind.",
        "Converts units.",
        "Unit conversion: length, mass, volume, time, temperature.",
        "Convert a quantity between units.",
        "Convert a value from one unit of measurement into another, e.g. miles to kilometers.",
        "Convert between units of length, mass and so on.",
    ],
    "sql_lookup": [
        "Look up rows of a table by the value of one column. Tables: {tables}.",
        "Look up rows of a table by the value of one column. Tables: {tables}.",
        "Look up rows of a table by the value of one column.",
        "Find rows in the database. Tables: {tables}.",
        "Search a table. There are: {tables}.",
        "Read-only lookup of rows by column value.",
    ],
}
PARAMETERS: dict[str, dict[str, str]] = {
    "calculator": {"expression": "string"},
    "clock": {"timezone": "string"},
    "convert_units": {"value": "number", "from_unit": "string", "to_unit": "string"},
    "sql_lookup": {"table": "string", "column": "string", "value": "string"},
}
NAMES = tuple(PARAMETERS)
SYSTEMS = [
    "You are a helpful assistant.",
    "You are moltbot.",
    "Answer briefly.",
    "You are a helpful assistant. Use the tools when they help.",
    "You are moltbot, a private assistant.",
    "Be short and exact.",
    "Help the user.",
    "You answer questions and call tools.",
    "You are an assistant that runs on the user's own machine.",
    "Use tools for arithmetic, time and units.",
    "You can call functions.",
    "Today is a good day. Be kind.",
    "Answer in English.",
]


def offer(name: str, description: str, tables: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """A tool in the form of the chat completions API.

    The model sees a parameter's type alone; what `tables` adds to the schema binds the engine, as the service's does.
    """
    properties: dict[str, Any] = {key: {"type": kind} for key, kind in PARAMETERS[name].items()}
    if tables:
        properties["table"]["enum"] = sorted(tables)
        properties["column"]["enum"] = sorted({column for columns in tables.values() for column in columns})
    required = list(properties)
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def offers(rng: random.Random, names: Sequence[str], tables: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """These tools, described in some words."""
    there = "; ".join(f"{table}({', '.join(columns)})" for table, columns in sorted(tables.items()))
    described = {name: rng.choice(DESCRIPTIONS[name]) for name in names}
    return [
        offer(name, text.replace("{tables}", there), tables if "{tables}" in text else None)
        for name, text in described.items()
    ]
