"""Server-sent events: bytes in any pieces become the events' data.

Source: WHATWG HTML, 9.2.6 Interpreting an event stream. A carriage return alone does not end a line here: no server of
models writes one.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 4 << 20


class SseDecoder:
    """Takes what was read and gives the data of the events that are complete."""

    __slots__ = ("_data", "_pending", "_size")

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that is now complete; events without data are skipped.

        Raises:
            ValueError: An event is larger than `MAX_EVENT_BYTES`.
        """
        self._size += len(data)
        if b"\n" not in data:
            return self._hold(data)
        if self._pending:
            self._pending.append(data)
            data = b"".join(self._pending)
            self._pending.clear()
        lines = data.split(b"\n")
        rest = lines.pop()
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif (not line or line == b"\r") and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
        if events or not self._data:
            self._size = len(rest) + sum(map(len, self._data))
        if rest:
            self._pending.append(rest)
        if self._size > MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return events

    def _hold(self, data: bytes) -> list[bytes]:
        if self._size > MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        if data:
            self._pending.append(data)
        return []

    def rest(self) -> list[bytes]:
        """The data of an event that the stream's end cut off before its empty line."""
        lines = [*self._data, *(line[5:].strip() for line in [b"".join(self._pending)] if line.startswith(b"data:"))]
        return [b"\n".join(lines)] if lines else []
