"""Conversion between units of one kind.

Source: NIST Special Publication 811 (2008), appendix B, for the exact factors.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from moltbot_tool.builtin.calculator import plain_text
from moltbot_tool.tools import Tool, ToolFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

_FACTORS: dict[str, dict[str, str]] = {
    "length": {
        "m meter meters metre metres": "1",
        "km kilometer kilometers kilometre kilometres": "1000",
        "cm centimeter centimeters centimetre centimetres": "0.01",
        "mm millimeter millimeters millimetre millimetres": "0.001",
        "um µm micrometer micrometers": "0.000001",
        "nm nanometer nanometers": "0.000000001",
        "mi mile miles": "1609.344",
        "yd yard yards": "0.9144",
        "ft foot feet": "0.3048",
        "in inch inches": "0.0254",
        "nmi nautical_mile nautical_miles": "1852",
    },
    "mass": {
        "kg kilogram kilograms": "1",
        "g gram grams": "0.001",
        "mg milligram milligrams": "0.000001",
        "t tonne tonnes": "1000",
        "lb lbs pound pounds": "0.45359237",
        "oz ounce ounces": "0.028349523125",
        "st stone stones": "6.35029318",
    },
    "volume": {
        "l liter liters litre litres": "1",
        "ml milliliter milliliters millilitre millilitres": "0.001",
        "m3 cubic_meter cubic_meters": "1000",
        "gal gallon gallons": "3.785411784",
        "qt quart quarts": "0.946352946",
        "pt pint pints": "0.473176473",
        "cup cups": "0.2365882365",
        "floz fl_oz fluid_ounce fluid_ounces": "0.0295735295625",
        "tbsp tablespoon tablespoons": "0.01478676478125",
        "tsp teaspoon teaspoons": "0.00492892159375",
    },
    "time": {
        "s sec second seconds": "1",
        "ms millisecond milliseconds": "0.001",
        "min minute minutes": "60",
        "h hr hour hours": "3600",
        "d day days": "86400",
        "week weeks": "604800",
    },
    "area": {
        "m2 square_meter square_meters": "1",
        "km2 square_kilometer square_kilometers": "1000000",
        "ha hectare hectares": "10000",
        "acre acres": "4046.8564224",
        "ft2 square_foot square_feet": "0.09290304",
    },
    "speed": {
        "mps m/s": "1",
        "kmh km/h kph": "0.2777777777777777777777777778",
        "mph mi/h": "0.44704",
        "kn knot knots": "0.5144444444444444444444444444",
    },
    "data": {
        "b byte bytes": "1",
        "kb kilobyte kilobytes": "1000",
        "mb megabyte megabytes": "1000000",
        "gb gigabyte gigabytes": "1000000000",
        "kib kibibyte kibibytes": "1024",
        "mib mebibyte mebibytes": "1048576",
        "gib gibibyte gibibytes": "1073741824",
    },
    "energy": {
        "j joule joules": "1",
        "kj kilojoule kilojoules": "1000",
        "cal calorie calories": "4.184",
        "kcal kilocalorie kilocalories": "4184",
        "wh watt_hour watt_hours": "3600",
        "kwh kilowatt_hour kilowatt_hours": "3600000",
    },
}
_TEMPERATURES = {"c": "c", "celsius": "c", "°c": "c", "f": "f", "fahrenheit": "f", "°f": "f", "k": "k", "kelvin": "k"}
_UNITS = {
    name: (kind, Decimal(factor))
    for kind, units in _FACTORS.items()
    for names, factor in units.items()
    for name in names.split()
}


def convert(value: Decimal, from_unit: str, to_unit: str) -> str:
    """Convert a value: `8.04672 kilometers`.

    Raises:
        ToolFailure: A unit is not known, or the two are not of one kind.
    """
    source, target = _name(from_unit), _name(to_unit)
    if source in _TEMPERATURES and target in _TEMPERATURES:
        return f"{plain_text(_temperature(value, _TEMPERATURES[source], _TEMPERATURES[target]))} {to_unit}"
    for name, written in ((source, from_unit), (target, to_unit)):
        if name not in _UNITS and name not in _TEMPERATURES:
            raise ToolFailure(f"the unit {written!r} is not known")
    if source in _TEMPERATURES or target in _TEMPERATURES or _UNITS[source][0] != _UNITS[target][0]:
        raise ToolFailure(f"{from_unit} and {to_unit} do not measure the same kind of thing")
    return f"{plain_text(value * _UNITS[source][1] / _UNITS[target][1])} {to_unit}"


def _name(unit: str) -> str:
    return unit.strip().lower().replace(" ", "_").removesuffix(".")


def _temperature(value: Decimal, source: str, target: str) -> Decimal:
    zero = Decimal("273.15")
    celsius = {"c": value, "f": (value - 32) * 5 / 9, "k": value - zero}[source]
    return {"c": celsius, "f": celsius * 9 / 5 + 32, "k": celsius + zero}[target]


def _run(arguments: Mapping[str, Any]) -> str:
    return convert(Decimal(str(arguments["value"])), arguments["from_unit"], arguments["to_unit"])


CONVERT_UNITS = Tool(
    name="convert_units",
    description="Convert a value from one unit to another.",
    parameters={
        "type": "object",
        "properties": {
            "value": {"type": "number", "minimum": -1e18, "maximum": 1e18},
            "from_unit": {"type": "string", "minLength": 1, "maxLength": 32, "description": "e.g. miles"},
            "to_unit": {"type": "string", "minLength": 1, "maxLength": 32, "description": "e.g. kilometers"},
        },
        "required": ["value", "from_unit", "to_unit"],
        "additionalProperties": False,
    },
    run=_run,
)
