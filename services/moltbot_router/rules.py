"""Routing rules as people write them, JSON or YAML.

{"routing_rules": [{"task_type": "long_text_summary", "priority_models": ["model_v3", "model_v2"],
"fallback_strategy": "round_robin"}]}
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.settings import read_yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

ANY_TASK = "*"
"""The task type of a rule for whatever no other rule names."""


class Strategy(Enum):
    """How models are ordered."""

    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    LEAST_BUSY = "least_busy"


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do for one kind of task."""

    task_type: str
    priority_models: tuple[str, ...]
    strategy: Strategy = Strategy.PRIORITY
    """How `priority_models` are ordered."""
    fallback_strategy: Strategy | None = None
    """How the other models follow when all of `priority_models` are out; `None`: they do not."""


_KEYS = frozenset({"task_type", "priority_models", "strategy", "fallback_strategy"})


def load_rules(path: Path, models: Collection[str]) -> tuple[Rule, ...]:
    """Read rules. JSON is YAML, so one reader serves both.

    Args:
        path: The file.
        models: Ids of the known models.

    Raises:
        InvalidArgument: The message names file, line, what is wrong and how to mend it.
    """
    tree, lines = read_yaml(path)
    for key in tree:
        if key != "routing_rules":
            line = lines[(str(key),)]
            raise InvalidArgument(f"{path}:{line}: unknown key {key!r}; the file has one key, routing_rules")
    entries = tree.get("routing_rules") or []
    if not isinstance(entries, list):
        raise InvalidArgument(f"{path}:{lines[('routing_rules',)]}: routing_rules must be a list of rules")
    rules: list[Rule] = []
    for index, entry in enumerate(cast("list[Any]", entries)):
        at = ("routing_rules", str(index))
        rules.append(_rule(path, entry, at, lines, models))
    seen: dict[str, int] = {}
    for index, rule in enumerate(rules):
        if rule.task_type in seen:
            line = lines[("routing_rules", str(index))]
            raise InvalidArgument(f"{path}:{line}: there are two rules for task_type {rule.task_type!r}; join them")
        seen[rule.task_type] = index
    return tuple(rules)


def _rule(
    path: Path, entry: object, at: tuple[str, ...], lines: Mapping[tuple[str, ...], int], models: Collection[str]
) -> Rule:
    def fail(key: str, what: str) -> InvalidArgument:
        line = lines.get((*at, key)) or lines[at]
        return InvalidArgument(f"{path}:{line}: {what}")

    if not isinstance(entry, dict):
        raise fail("", "a rule must be a mapping with task_type and priority_models")
    found = cast("dict[str, Any]", entry)
    for key in found:
        if key not in _KEYS:
            raise fail(key, f"unknown key {key!r}; a rule has {', '.join(sorted(_KEYS))}")
    task_type = found.get("task_type")
    if not isinstance(task_type, str) or not task_type:
        raise fail("task_type", "task_type must be a text such as long_text_summary")
    names = found.get("priority_models")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in cast("list[Any]", names)):
        raise fail("priority_models", "priority_models must be a list of one or more model ids")
    for index, name in enumerate(cast("list[str]", names)):
        if name not in models:
            line = lines.get((*at, "priority_models", str(index))) or lines[at]
            known = ", ".join(sorted(models)) or "none"
            raise InvalidArgument(f"{path}:{line}: no model has the id {name!r}; there are: {known}")

    def strategy(key: str) -> Strategy | None:
        value = found.get(key)
        if value is None:
            return None
        try:
            return Strategy(value)
        except ValueError:
            known = ", ".join(one.value for one in Strategy)
            raise fail(key, f"{key} {value!r} is not known; use one of {known}") from None

    return Rule(
        task_type,
        tuple(dict.fromkeys(cast("list[str]", names))),
        strategy("strategy") or Strategy.PRIORITY,
        strategy("fallback_strategy"),
    )
