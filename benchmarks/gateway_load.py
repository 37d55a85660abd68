"""The clients of the gateway's benchmark, in a process of their own: HTTP/1.1 straight on the transport, kept alive.

Reads one job a line (JSON) from standard input and answers each with a line: what was done, and how long it took. Each
client sends its next request when the answer before it is complete.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

_HEAD_END = b"\r\n\r\n"


class Job(msgspec.Struct):
    """What to do."""

    port: int
    clients: int
    seconds: float
    """No request begins later than this."""
    key: str
    model: str
    tokens: int
    stream: bool
    requests: int = 0
    """End after so many; 0: by time alone."""


class Done(msgspec.Struct):
    """What was done."""

    requests: int
    failed: int
    seconds: float
    latencies_ms: list[float]
    """Of each whole answer."""
    first_ms: list[float]
    """Until the first byte of each body."""
    first_failure: str


PROMPT = (
    "Summarise the minutes below in three sentences for somebody who was not there, and say what was decided and who "
    "does what until when. " + "The committee met at ten and heard the report on the second quarter. " * 12
)


def request_bytes(job: Job) -> bytes:
    body = msgspec.json.encode(
        {
            "model": job.model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant."},
                {"role": "user", "content": PROMPT},
            ],
            "max_tokens": job.tokens,
            "temperature": 0.7,
            "stream": job.stream,
        }
    )
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nAuthorization: Bearer {job.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nUser-Agent: bench\r\n\r\n"
    ).encode() + body


class Client(asyncio.Protocol):
    """One client: one request at a time."""

    def __init__(self, job: Job, request: bytes, done: Done, until_s: float, left: asyncio.Future[None]) -> None:
        self._job, self._request, self._done, self._until_s, self._left = job, request, done, until_s, left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._left.done():
            self._done.failed += 1
            self._done.first_failure = self._done.first_failure or f"connection lost: {exc}"
            self._left.set_result(None)

    def _send(self) -> None:
        enough = self._job.requests and self._done.requests + self._done.failed >= self._job.requests
        if enough or time.perf_counter() >= self._until_s:
            if not self._left.done():
                self._left.set_result(None)
            self._transport.close()
            return
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._sent_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._parts:
            self._head += data
            self._head, found, data = self._head.partition(_HEAD_END)
            if not found:
                return
            if not data:
                self._head += _HEAD_END
                return
            self._done.first_ms.append((time.perf_counter() - self._sent_s) * 1e3)
            lower = self._head.lower()
            at = lower.find(b"\r\ncontent-length:")
            self._length = int(lower[at + 17 :].partition(b"\r\n")[0]) if at >= 0 else -1
        self._parts.append(data)
        self._size += len(data)
        if self._size == self._length or (self._length < 0 and self._chunks_ended()):
            self._ended()

    def _chunks_ended(self) -> bool:
        last = self._parts[-1] if len(self._parts[-1]) >= 7 or len(self._parts) == 1 else b"".join(self._parts[-7:])
        return last.endswith(b"\r\n0\r\n\r\n")

    def _ended(self) -> None:
        done = self._done
        tail = b"".join(self._parts[-2:])
        whole = (b"data: [DONE]" in tail) if self._job.stream else (b'"completion_tokens"' in tail)
        if self._head.startswith(b"HTTP/1.1 200 ") and whole:
            done.requests += 1
            done.latencies_ms.append((time.perf_counter() - self._sent_s) * 1e3)
        else:
            done.failed += 1
            done.first_failure = done.first_failure or (self._head[:60] + b" ... " + tail[-300:]).decode(
                errors="replace"
            )
        self._send()


async def run(job: Job) -> Done:
    loop = asyncio.get_running_loop()
    done = Done(0, 0, 0.0, [], [], "")
    started_s = time.perf_counter()
    request = request_bytes(job)
    waiting: list[asyncio.Future[None]] = []
    for _ in range(job.clients):
        left: asyncio.Future[None] = loop.create_future()
        waiting.append(left)
        until_s = started_s + job.seconds
        await loop.create_connection(
            lambda left=left, until_s=until_s: Client(job, request, done, until_s, left), "127.0.0.1", job.port
        )
    await asyncio.wait_for(asyncio.gather(*waiting), job.seconds + 60)
    done.seconds = time.perf_counter() - started_s
    return done


def main() -> None:
    for line in sys.stdin:
        done = uvloop.run(run(msgspec.json.decode(line, type=Job)))
        print(msgspec.json.encode(done).decode(), flush=True)


if __name__ == "__main__":
    main()
