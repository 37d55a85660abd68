"""The time now, in any time zone of the IANA database.

Source: RFC 6557 (IANA time zone database); RFC 3339 for the format.
"""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moltbot_tool.tools import Tool, ToolFailure

if TYPE_CHECKING:
    from collections.abc import Mapping


def time_in(timezone: str, now: datetime) -> str:
    """`now` in a time zone: `2026-01-31 14:05:09 JST (UTC+09:00), Saturday`.

    Raises:
        ToolFailure: No zone has this name.
    """
    try:
        zone = UTC if timezone.upper() in {"UTC", "GMT", "Z"} else zoneinfo.ZoneInfo(timezone.replace(" ", "_"))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        city = timezone.rpartition("/")[2].replace(" ", "_").lower()
        near = sorted(name for name in zoneinfo.available_timezones() if name.rpartition("/")[2].lower() == city)
        hint = f"; did you mean {near[0]}?" if near else "; use a name such as Europe/Berlin"
        raise ToolFailure(f"no time zone is named {timezone!r}{hint}") from None
    local = now.astimezone(zone)
    offset = local.strftime("%z")
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()} (UTC{offset[:3]}:{offset[3:]}), {local:%A}"


def _run(arguments: Mapping[str, Any]) -> str:
    return time_in(arguments.get("timezone", "UTC"), datetime.now(UTC))


CLOCK = Tool(
    name="clock",
    description="Tell the current date and time in a time zone.",
    parameters={
        "type": "object",
        "properties": {
            "timezone": {"type": "string", "minLength": 1, "maxLength": 64, "description": "IANA name, e.g. Asia/Tokyo"}
        },
        "additionalProperties": False,
    },
    run=_run,
    idempotent=False,
)
