"""Arithmetic on decimal numbers, by walking Python's own syntax tree of an expression; nothing is evaluated.

Numbers are exact decimals of 28 digits; sizes are bounded, so no expression costs more than microseconds.
"""

from __future__ import annotations

import ast
import decimal
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from moltbot_tool.tools import Tool, ToolFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_LENGTH = 500
_MAX_EXPONENT = 1000
_PERCENT = re.compile(r"(?<=[\d)])\s*%(?!\s*[\d(])")
_BINARY: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: _floor_divided(a, b)[0],
    ast.Mod: lambda a, b: _floor_divided(a, b)[1],
}
_ONE: dict[str, Callable[[Decimal], Decimal]] = {
    "sqrt": lambda a: a.sqrt(),
    "abs": abs,
    "round": lambda a: a.to_integral_value(decimal.ROUND_HALF_EVEN),
    "floor": lambda a: a.to_integral_value(decimal.ROUND_FLOOR),
    "ceil": lambda a: a.to_integral_value(decimal.ROUND_CEILING),
    "ln": lambda a: a.ln(),
    "log10": lambda a: a.log10(),
    "exp": lambda a: a.exp(),
}
_MANY: dict[str, Callable[[list[Decimal]], Decimal]] = {"min": min, "max": max}
_FUNCTIONS = (*_ONE, *_MANY)
_SIGNS = str.maketrans({"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-", "^": "ⓧ"})
_CONSTANTS = {"pi": Decimal("3.141592653589793238462643383"), "e": Decimal("2.718281828459045235360287471")}


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, without exponent and trailing zeros.

    Raises:
        ToolFailure: It is not one, or its value is not defined or too large.
    """
    if len(expression) > _MAX_LENGTH:
        raise ToolFailure(f"the expression is longer than {_MAX_LENGTH} characters")
    text = expression.strip().removesuffix("=").translate(_SIGNS)
    text = _PERCENT.sub("/100", text.replace("ⓧ", "**"))
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolFailure(f"not an arithmetic expression: {expression!r}") from None
    with decimal.localcontext(decimal.Context(prec=28, Emax=100_000, Emin=-100_000)) as context:
        context.traps[decimal.InvalidOperation] = True
        try:
            return plain_text(_finite(_value(tree.body, text.strip())))
        except decimal.DivisionByZero:
            raise ToolFailure("division by zero") from None
        except (decimal.Overflow, decimal.InvalidOperation, RecursionError):
            raise ToolFailure(f"the value of {expression!r} is not defined or too large") from None


def _value(node: ast.expr, text: str) -> Decimal:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return Decimal(number)
        case ast.Constant(value=float()):
            return Decimal(ast.get_source_segment(text, node) or "")  # as written: a float would lose digits
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, text), _value(right, text))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            return _BINARY[type(operator)](_value(left, text), _value(right, text))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            values = [_value(argument, text) for argument in args]
            if name in _MANY and values:
                return _MANY[name](values)
            if name in _ONE and len(values) == 1:
                return _ONE[name](values[0])
            raise ToolFailure(f"{name} takes {'one number' if name in _ONE else 'one or more numbers'}")
        case _:
            raise ToolFailure(f"only numbers, + - * / // % ** ( ), {', '.join(_FUNCTIONS)} and pi, e are known")


def _finite(value: Decimal) -> Decimal:
    if not value.is_finite():  # the logarithm of zero is no trap of decimal's
        raise decimal.InvalidOperation
    return value


def _floor_divided(a: Decimal, b: Decimal) -> tuple[Decimal, Decimal]:
    """Quotient rounded down and remainder with the divisor's sign, both exact."""
    if not b:
        raise decimal.DivisionByZero
    quotient, remainder = divmod(a, b)  # Decimal's own rounds toward zero
    if remainder and (remainder < 0) != (b < 0):
        return quotient - 1, remainder + b
    return quotient, remainder


def _power(base: Decimal, exponent: Decimal) -> Decimal:
    if abs(exponent) > _MAX_EXPONENT:
        raise ToolFailure(f"exponents go up to {_MAX_EXPONENT}")
    return base**exponent


def plain_text(value: Decimal) -> str:
    """A number without exponent and trailing zeros, 15 digits where it is not whole."""
    if not value:
        return "0"
    if value == value.to_integral_value() and abs(value) < Decimal(10) ** 28:
        return str(value.to_integral_value().quantize(Decimal(1)))
    rounded = value.normalize(decimal.Context(prec=15))
    return format(rounded, "f") if -20 < rounded.adjusted() < 28 else str(rounded)


def _run(arguments: Mapping[str, Any]) -> str:
    return calculate(arguments["expression"])


CALCULATOR = Tool(
    name="calculator",
    description="Evaluate an arithmetic expression exactly.",
    parameters={
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "minLength": 1,
                "maxLength": _MAX_LENGTH,
                "description": "e.g. (12 + 8) / 5",
            }
        },
        "required": ["expression"],
        "additionalProperties": False,
    },
    run=_run,
)
