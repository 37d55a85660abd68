"""What is taken out of bodies before they are kept.

Source: GB 11643-1999 and ISO 7064 MOD 11-2 (citizen identification numbers); ISO/IEC 7812-1 annex B (Luhn).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _identity_number(text: str) -> bool:
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], _WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == text[17].upper()


def _luhn(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 12 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of personal data."""

    name: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] | None = None
    """Whether what was found is of the kind indeed; None if the pattern says enough."""


BUILT_IN: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("email", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")),
        Rule(
            "phone", re.compile(r"(?<![\d+])(?:\+\d{1,3}[ -]?)?(?:1[3-9]\d{9}|\(?\d{3}\)?[ -]\d{3,4}[ -]\d{4})(?!\d)")
        ),
        Rule("identity_number", re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])"), _identity_number),
        Rule("bank_card", re.compile(r"(?<!\d)\d(?:[ -]?\d){11,18}(?!\d)"), _luhn),
        Rule("api_key", re.compile(r"\b(?:mb_[a-z2-7]{1,64}_[A-Za-z0-9_-]{20,64}|sk-[A-Za-z0-9_-]{16,128})")),
        Rule(
            "ip_address",
            re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"),
        ),
    )
}


def rules_of(names: Sequence[str], own: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules that a configuration names.

    Args:
        names: Built-in ones, in order.
        own: Further ones: regular expressions by name.

    Raises:
        InvalidArgument: There is no such rule, or an expression is not valid or matches nothing at all.
    """
    rules: list[Rule] = []
    for name in names:
        if name not in BUILT_IN:
            raise InvalidArgument(f"audit.redact: there is no rule {name!r}; there are {', '.join(BUILT_IN)}")
        rules.append(BUILT_IN[name])
    for name, text in own.items():
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise InvalidArgument(f"audit.redact_patterns.{name}: not a regular expression: {error}") from None
        if pattern.match(""):
            raise InvalidArgument(f"audit.redact_patterns.{name}: it matches the empty text; make it say something")
        rules.append(Rule(name, pattern))
    return tuple(rules)


def redact(text: str, rules: Sequence[Rule]) -> tuple[str, Counter[str]]:
    """Replace personal data by `[name of the rule]`.

    Returns:
        The text, and how often each rule changed it.
    """
    changed: Counter[str] = Counter()
    for rule in rules:

        def replaced(match: re.Match[str], rule: Rule = rule) -> str:
            if rule.holds is not None and not rule.holds(match[0]):
                return match[0]
            changed[rule.name] += 1
            return f"[{rule.name}]"

        text = rule.pattern.sub(replaced, text)
    return text, changed
