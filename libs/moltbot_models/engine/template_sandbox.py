"""The sandbox in which chat templates run: they come with models from anywhere.

Jinja's own keeps a template from Python's insides and from changing what it is given, but not from taking all time and
memory: `{{ 'x' * 10 ** 10 }}`, a string that doubles in a loop, loops within loops. Here whatever repeats or grows
spends from a budget that each rendering has, and nothing is made that is longer than any prompt.

Source: jinja2 docs, sandbox ("a template may still use a lot of CPU or memory").
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jinja2.runtime import Context

MOST_WORK = 1 << 27
"""Characters made in one rendering; each step and each turn of a loop counts for some: a few seconds at most."""
MOST_LENGTH = 1 << 25
"""Characters or items of anything that a template makes; prompts have less."""
_STEP, _TURN, _CALL = 64, 256, 512
_MOST_BITS = 4096
_WIDE = re.compile(r"\d{6}|\*")
_STRUCTURAL = frozenset({
    "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list",
    "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice",
})  # fmt: skip
"""Filters that take a list or mapping as it is; the others write or compare what is in it, however deep."""
_COMPARING = (
    "==", "!=", "<", "<=", ">", ">=", "eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge", "in",
    "lower", "upper",
)  # fmt: skip
"""Tests that do so."""
_FORBIDDEN = frozenset({"translate", "format_map"})
"""Methods of texts whose growth is not worked out beforehand; no template needs them."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An environment whose templates are compiled and rendered within a budget: call `refill` before."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = threading.local()
        self.filters = {name: self.bounded(name, one) for name, one in self.filters.items()}
        self.filters |= {"_turns": self._turns, "_joined": self.concat, "_measured": self._measured}
        self.tests |= {name: self.bounded(name, self.tests[name]) for name in _COMPARING}
        self.finalize = self._measured  # of what is written, before it is made a text
        del self.globals["lipsum"]

    def refill(self, *given: object) -> None:
        """Give what this thread compiles or renders next a budget of its own.

        Args:
            given: Lists that the template is given: comparing them with something costs no more than they are.
        """
        self._local.left, self._local.given = MOST_WORK, {id(one) for one in given}

    def concat(self, parts: Iterable[Any]) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - a function there
        """Join what a template, macro or block has written."""
        pieces: list[str] = []
        length = 0
        for part in parts:
            pieces.append(str(self._measured(part)))  # of `~` it is no text yet
            self._spend(len(pieces[-1]))
            length += len(pieces[-1])
            _check(length)
        return "".join(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be far greater than what it is made of."""
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > _MOST_BITS:
                raise SecurityError("the chat template makes too great a number")
        elif operator == "+":
            _check(_size(left) + _size(right))
        elif operator == "*":
            sizes, factors = (
                [_size(one) for one in (left, right)],
                [one for one in (left, right) if isinstance(one, int)],
            )
            _check(max(sizes) * max(factors, default=1))
        elif isinstance(left, str):
            _check_growth("format", (left,))
            self._measured(right)
        result = super().call_binop(context, operator, left, right)
        self._spend(_size(result))
        return result

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls; methods of texts that make longer ones are looked at before."""
        method = getattr(obj, "__wrapped__", obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            args = _whole(args) if name == "join" else args
            _check_growth(name, (owner, *args))
            self._measured([*args, *kwargs.values()])
        else:
            self._spend(_CALL)  # a macro, most likely
        result = super().call(context, obj, *args, **kwargs)
        self._spend(_size(result))
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Leave out methods of texts that nobody can bound."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _FORBIDDEN)

    def _generate(self, source: nodes.Template, name: Any, filename: Any, defer_init: bool = False) -> str:
        return super()._generate(_Counting().visit(source), name, filename, defer_init)

    def _spend(self, work: int) -> None:
        self._local.left = getattr(self._local, "left", 0) - work - _STEP
        if self._local.left < 0:
            raise SecurityError("the chat template takes too long")

    def _measured(self, value: Any) -> Any:
        """The value, its insides paid for: lists of lists that hold each other many times over are no longer small."""
        if not isinstance(value, (list, tuple, dict)) or id(value) in self._local.given:
            self._spend(_size(value))
            return value
        left: list[Any] = [value]
        while left:
            one = left.pop()
            if isinstance(one, (list, tuple, dict)):
                self._spend(len(one) * _STEP)
                left.extend(one)
                left.extend(one.values() if isinstance(one, dict) else ())
            elif isinstance(one, str):
                self._spend(len(one))
        return value

    def _turns(self, values: Iterable[Any]) -> _Turns:
        return _Turns(values if hasattr(values, "__len__") else list(values), self._spend)  # type: ignore[arg-type]

    def bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that looks at what it is given, and pays for what it makes."""

        # `wraps` also keeps what jinja2 has noted of the context that the filter wants.
        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            args = _whole(args) if name == "join" else args
            _check_growth(name, (*args, *kwargs.values()))
            if name not in _STRUCTURAL:
                self._measured(args)
            result = function(*args, **kwargs)
            self._spend(_size(result))
            return result

        return bounded


class _Turns:
    """What a loop goes over; each turn is paid for."""

    __slots__ = ("_spend", "_values")

    def __init__(self, values: Sequence[Any], spend: Callable[[int], None]) -> None:
        self._values, self._spend = values, spend

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._spend(_TURN)
            yield value


class _Counting(NodeTransformer):
    """Puts loops, comparisons and `~` through the environment's own filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the class's name
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_turns", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for side in (node, *node.ops):
            side.expr = nodes.Filter(side.expr, "_measured", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None, lineno=node.lineno)


def _whole(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a join: what can be gone over once is gone over now, so that it can be measured."""
    return tuple(list(one) if isinstance(one, Iterator) else one for one in args)


def _check_growth(name: str, values: Sequence[Any]) -> None:
    """Look at what a method of a text or a filter is given, the text among it, for how long its result may be."""
    for value in values:
        _check(abs(value) if isinstance(value, int) else 0)
    texts = [one for one in values if isinstance(one, str)]
    if name == "replace" and len(texts) == 3:
        text, old, new = texts
        _check(len(text) + text.count(old) * len(new))
    elif name == "join":
        for one in values:
            if isinstance(one, (list, tuple)):
                _check(len(one) * sum(map(len, texts)) + sum(map(_size, one)))
    elif name == "format" and texts and _WIDE.search(texts[0]):
        raise SecurityError("the chat template formats too wide")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 0


def _check(length: int) -> None:
    if length > MOST_LENGTH:
        raise SecurityError("the chat template makes something longer than any prompt")
