"""The log copied into ClickHouse, by its HTTP interface. `deploy/clickhouse/audit_events.sql` makes the table.

Source: https://clickhouse.com/docs/interfaces/http, https://clickhouse.com/docs/interfaces/formats/JSONCompactEachRow
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from moltbot_audit.adapters.columns import Row, row
from moltbot_audit.merkle import leaf_hash
from moltbot_mesh.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from moltbot_audit.records import Logged
    from moltbot_audit.settings import ClickHouseSettings

_COLUMNS = ", ".join(Row._fields)
_ENCODER = msgspec.json.Encoder()
_SAID_CHARACTERS = 200
_SAID_BYTES = 4096
_INSERT = {
    "async_insert": "0",  # what is acknowledged is in the table
    "wait_end_of_query": "1",  # and the status is that of the whole insert
    "input_format_skip_unknown_fields": "0",
}


class ClickHouse:
    """A table of a ClickHouse server; see `Sink`.

    Args:
        settings: Where it is.
        session: Of its own.
    """

    def __init__(self, settings: ClickHouseSettings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session
        self._table = f"{settings.database}.{settings.table}"
        self.target = f"{settings.url.rstrip('/')}/{self._table}"

    async def write(self, batch: Sequence[Logged]) -> None:
        """Insert records; see `Sink.write`."""
        body = await asyncio.to_thread(encode, batch)
        await self._post(f"INSERT INTO {self._table} ({_COLUMNS}) FORMAT JSONCompactEachRow", _INSERT, body)

    async def forget(self, before: int) -> None:
        """Remove expired records; see `Sink.forget`. The server does it behind the answer."""
        await self._post(f"ALTER TABLE {self._table} DELETE WHERE sequence < {before:d}", {}, b"")

    async def _post(self, query: str, given: Mapping[str, str], body: bytes) -> None:
        headers = {"X-ClickHouse-User": self._settings.user, "Content-Type": "application/octet-stream"}
        if self._settings.password_file is not None:  # read each time: it may be replaced while this runs
            headers["X-ClickHouse-Key"] = await asyncio.to_thread(_secret, self._settings.password_file)
        try:
            async with self._session.post(
                self._settings.url, params={"query": query, **given}, data=body, headers=headers, allow_redirects=False
            ) as answer:
                # An insert that fails late may have said 200 before; the header, or the text, tells.
                code = answer.headers.get("X-ClickHouse-Exception-Code", "")
                said = (await answer.content.read(_SAID_BYTES)).decode(errors="replace").strip()
                if answer.status != 200 or code or said:
                    raise Unavailable(
                        f"ClickHouse answers {answer.status} {code}: {said[:_SAID_CHARACTERS]}".rstrip(": ")
                    )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"ClickHouse cannot be reached: {error or type(error).__name__}") from None


def encode(batch: Sequence[Logged]) -> bytes:
    """Records as JSON arrays, one a line, in the order of the columns; bytes in hexadecimal."""
    return _ENCODER.encode_lines(
        [
            [
                value.hex() if isinstance(value, bytes) else value
                for value in row(one.sequence, leaf_hash(one.payload), one.payload)
            ]
            for one in batch
        ]
    )


@contextlib.asynccontextmanager
async def open_clickhouse(settings: ClickHouseSettings) -> AsyncGenerator[ClickHouse]:
    """A sink while the context is open; whether the server is there shows when it is used.

    Raises:
        InvalidArgument: The certificates or the password cannot be read.
    """
    tls: ssl.SSLContext | bool = True
    if settings.ca_file is not None:
        try:
            tls = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:  # an SSLError is one
            raise InvalidArgument(f"audit.clickhouse.ca_file: {settings.ca_file}: {error}") from None
    if settings.password_file is not None:
        _secret(settings.password_file)
    timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=2, ssl=tls)) as session:
        yield ClickHouse(settings, session)


def _secret(path: Path) -> str:
    try:
        secret = path.read_text("utf-8").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"audit.clickhouse.password_file: {path}: {error}") from None
    if mode & 0o077:
        raise InvalidArgument(f"{path}: others may read this password; run `chmod 600 {path}`")
    if not secret.isprintable():
        raise InvalidArgument(f"{path}: a password of one line is asked for")
    return secret
