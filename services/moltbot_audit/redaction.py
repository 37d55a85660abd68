"""What is taken out of bodies before they are kept.

Source: GB 11643-1999 and ISO 7064 MOD 11-2 (citizen identification numbers); ISO/IEC 7812-1 annex B (Luhn).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_NESTED = 4
"""How many times JSON within a string of JSON is looked into: a call's arguments, and what they quote."""
_JSON_START = ("{", "[", '"')
_INTEGER_DIGITS = 4000
_DATA_URL = re.compile(r"data:[a-z]{1,32}/[a-z0-9.+-]{1,64};base64,[A-Za-z0-9+/]*={0,2}", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{256,}={0,2}")
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
        Rule(
            "api_key",
            re.compile(r"(?<![0-9A-Za-z])(?:mb_[a-z2-7]{1,64}_[A-Za-z0-9_-]{20,64}|sk-[A-Za-z0-9_-]{16,128})"),
        ),
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


def redact_body(data: bytes, rules: Sequence[Rule]) -> tuple[bytes, Counter[str]]:
    """Replace personal data in what was asked or answered.

    Of JSON it is the texts that are looked at, without their escapes, of which rules know nothing. What comes out is
    JSON again. Images and sounds in base64 are passed over; their digits are nobody's.

    Returns:
        The body, the very bytes if no rule changed it, and how often each did.
    """
    text, changed = _redact_text(data.decode("utf-8", "replace"), rules, _NESTED)
    # Half of a surrogate pair, which JSON may name and UTF-8 may not, becomes its escape again.
    return (text.encode("utf-8", "backslashreplace") if changed else data), changed


def _redact_text(text: str, rules: Sequence[Rule], nested: int) -> tuple[str, Counter[str]]:
    if nested and text.lstrip().startswith(_JSON_START):
        try:
            walk = _Walk(rules, nested - 1)
            decoder = json.JSONDecoder(
                object_pairs_hook=walk.members, parse_int=walk.integer, parse_float=walk.fraction, strict=False
            )
            value = walk.value(decoder.decode(text))
        except (ValueError, RecursionError):
            return redact(text, rules)
        return (json.dumps(value, ensure_ascii=False) if walk.changed else text), walk.changed
    return redact(text, rules)


class _Walk:
    """Redacts JSON while it is read, so that of two members of one name both are seen."""

    def __init__(self, rules: Sequence[Rule], nested: int) -> None:
        self._rules, self._nested = rules, nested
        self.changed: Counter[str] = Counter()

    def members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            self._text(name): value
            if name == "data" and isinstance(value, str) and _BASE64.fullmatch(value)
            else self.value(value)
            for name, value in pairs
        }

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if _DATA_URL.fullmatch(value) else self._text(value)
        return [self.value(one) for one in value] if isinstance(value, list) else value

    def integer(self, text: str) -> int | str:
        found = self._text(text)
        return int(text) if found == text and len(text) <= _INTEGER_DIGITS else found

    def fraction(self, text: str) -> float | str:
        found = self._text(text)
        number = float(text)
        return number if found == text and math.isfinite(number) else found

    def _text(self, text: str) -> str:
        found, changed = _redact_text(text, self._rules, self._nested)
        self.changed += changed
        return found
