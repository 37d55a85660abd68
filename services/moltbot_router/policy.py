"""The decision: which models may answer a request, and in which order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moltbot_mesh.errors import NotFound, Unavailable
from moltbot_router.classify import classify
from moltbot_router.modalities import not_taken, takes
from moltbot_router.rules import ANY_TASK, Rule, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moltbot_models.manifest import Manifest
    from moltbot_router.health import Health

AUTO = "auto"
"""The model id that lets the rules choose, as an empty one does."""


@dataclass(frozen=True, slots=True)
class Table:
    """Models and rules of one version."""

    version: int
    models: Mapping[str, Manifest]
    rules: Mapping[str, Rule]
    """By task type."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of a request."""

    tenant: str
    task: str
    """`text-generation` or `embedding`."""
    model: str = ""
    task_type: str = ""
    prompt_bytes: int = 0
    has_tools: bool = False
    excerpt: str = ""
    modalities: tuple[str, ...] = ()
    """What stands in the conversation beside text."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The candidates, best first, and why."""

    models: tuple[str, ...]
    task_type: str
    rule: str
    """Which rule decided, for the audit log: `model` (asked for by name), `rule:<task type>` or `default`."""


@dataclass(slots=True)
class Policy:
    """Decides.

    Args:
        health: How models do.
        rng: Draws for `weighted`.
    """

    health: Health
    rng: random.Random = field(default_factory=random.Random)
    _turns: dict[str, int] = field(default_factory=dict)

    def decide(self, table: Table, wanted: Wanted) -> Decision:
        """Choose the candidates for a request.

        Raises:
            InvalidArgument: The model asked for does not take what stands in the conversation.
            NotFound: The model asked for is not there or not open to the tenant, or no model does this task or takes
                what stands in the conversation.
            Unavailable: Every candidate's breaker is open; `retry_after_s` says when one will try again.
        """
        known = [m for m in table.models.values() if m.task == wanted.task and _allows(m, wanted.tenant)]
        open_to = [m for m in known if takes(m, wanted.modalities)] if wanted.modalities else known
        ids = {manifest.id: manifest for manifest in open_to}
        task_type = wanted.task_type or classify(wanted.excerpt, wanted.prompt_bytes, has_tools=wanted.has_tools)
        if wanted.model and wanted.model != AUTO:
            if wanted.model not in ids:
                if any(manifest.id == wanted.model for manifest in known):
                    raise not_taken(known, wanted.modalities, wanted.model)
                raise NotFound(
                    f"no model {wanted.model!r} for {wanted.task}; GET /v1/models lists those you may use",
                    reason="MODEL_NOT_FOUND",
                    metadata={"model": wanted.model},
                )
            rule = table.rules.get(task_type) or table.rules.get(ANY_TASK)
            group = [wanted.model]
            if rule is not None and wanted.model in rule.priority_models:
                group += [name for name in rule.priority_models if name in ids and name != wanted.model]
            return Decision(self._callable(group), task_type, "model")
        if not ids:
            if known:
                raise not_taken(known, wanted.modalities)
            raise NotFound(f"no model for {wanted.task} is open to this tenant", reason="MODEL_NOT_FOUND")
        rule = table.rules.get(task_type) or table.rules.get(ANY_TASK)
        if rule is not None and any(name in ids for name in rule.priority_models):
            first = [ids[name] for name in rule.priority_models if name in ids]
            ordered = self._ordered(first, rule.strategy, f"{rule.task_type}/first")
            if rule.fallback_strategy is not None:
                rest = [manifest for manifest in open_to if manifest.id not in rule.priority_models]
                ordered += self._ordered(rest, rule.fallback_strategy, f"{rule.task_type}/rest")
            return Decision(self._callable(ordered), task_type, f"rule:{rule.task_type}")
        preferred = [m for m in open_to if task_type in m.task_types]
        others = [m for m in open_to if task_type not in m.task_types]
        return Decision(self._callable([m.id for m in (*preferred, *others)]), task_type, "default")

    def _ordered(self, models: Sequence[Manifest], strategy: Strategy, turn: str) -> list[str]:
        names = [manifest.id for manifest in models]
        if len(names) < 2 or strategy is Strategy.PRIORITY:
            return names
        if strategy is Strategy.ROUND_ROBIN:
            at = self._turns.get(turn, 0) % len(names)
            self._turns[turn] = at + 1
            return names[at:] + names[:at]
        if strategy is Strategy.LEAST_BUSY:
            return sorted(names, key=self.health.in_flight)
        # Weighted: an order drawn without replacement (Efraimidis and Spirakis, 2006).
        keys = {m.id: self.rng.random() ** (1.0 / (m.weight or 1)) for m in models}
        return sorted(names, key=lambda name: keys[name], reverse=True)

    def _callable(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those whose breaker lets a call through."""
        found = tuple(name for name in names if self.health.may_call(name))
        if not found:
            wait_s = min(self.health.opens_in_s(name) for name in names)
            raise Unavailable(
                f"{', '.join(names)}: failing, not called for another {wait_s:.1f} s",
                reason="UPSTREAM_UNAVAILABLE",
                retry_after_s=max(wait_s, 0.1),
            )
        self.health.try_call(found[0])  # the others are called only if it fails
        return found


def _allows(manifest: Manifest, tenant: str) -> bool:
    return not manifest.tenants or tenant in manifest.tenants
