"""Load for crash tests: clients that ask without a pause, over restarts, and remember what they were answered."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Self

_ANSWER_S = 15.0
_PAUSE_S = 0.05
"""After a refusal; a client that is not answered does not spin."""
_CHAT = "/v1/chat/completions"
_DONE = "data: [DONE]"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An answer that a client has in its hands, whole."""

    request_id: str
    receipt: str
    """Its audit id."""
    session: str
    """Empty if it belongs to none."""
    text: str
    """What was asked; no other request asked the same."""


@dataclass(frozen=True, slots=True)
class _Kind:
    model: str
    stream: bool
    in_session: bool


class Client(threading.Thread):
    """Asks one thing after the other: plain and streamed, within its session and without.

    A plain answer is acknowledged when its body has ended, a streamed one as soon as `[DONE]` was read: a client need
    not wait for more.

    Args:
        url: Of the mesh.
        key: API key.
        models: Asked in turn.
        stop: Ends the thread between two requests.
    """

    def __init__(self, name: str, url: str, key: str, models: Sequence[str], stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.session = f"session-of-{name}"
        self.acknowledged: list[Acknowledged] = []
        self.asked_in_session: list[str] = []
        """Every text, also of requests that were not answered."""
        self.broken = 0
        """Requests that ended without a whole answer."""
        self.refused: Counter[int] = Counter()
        """By HTTP status."""
        self._url, self._key, self._stop_asking = url, key, stop
        self._kinds = itertools.cycle(itertools.starmap(_Kind, itertools.product(models, (False, True), (True, False))))

    def run(self) -> None:
        """Ask until told to stop."""
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=_ANSWER_S, trust_env=False) as http:
            for number, kind in enumerate(self._kinds):
                if self._stop_asking.is_set():
                    return
                try:
                    answered = self._ask(http, kind, f"{self.name} asks for number {number}")
                except httpx.HTTPError:
                    self.broken += 1
                    answered = False
                if not answered:
                    time.sleep(_PAUSE_S)

    def _ask(self, http: httpx.Client, kind: _Kind, text: str) -> bool:
        request_id = f"crash-{uuid.uuid4().hex}"
        body: dict[str, Any] = {"model": kind.model, "messages": [{"role": "user", "content": text}]}
        if kind.stream:
            body["stream"] = True
        if kind.in_session:
            body["moltbot"] = {"session": self.session}
            self.asked_in_session.append(text)
        with http.stream("POST", _CHAT, json=body, headers={"x-request-id": request_id}) as answer:
            if answer.status_code != 200:
                self.refused[answer.status_code] += 1
                return False
            one = Acknowledged(
                request_id, answer.headers["x-moltbot-receipt"], self.session if kind.in_session else "", text
            )
            if not kind.stream:
                answer.read()
                self.acknowledged.append(one)
                return True
            whole = False
            for line in answer.iter_lines():
                if line == _DONE:
                    whole = True
                    self.acknowledged.append(one)
            self.broken += not whole
            return whole


class Load:
    """Several clients at once. A context manager: they ask from entry to exit.

    Args:
        clients: How many.
        url: Of the mesh.
        key: API key of all.
        models: That they ask.
    """

    def __init__(self, clients: int, url: str, key: str, models: Sequence[str]) -> None:
        self._stop = threading.Event()
        self.clients = [Client(f"client {n}", url, key, models, self._stop) for n in range(clients)]

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """By all clients until now."""
        return [one for client in self.clients for one in tuple(client.acknowledged)]

    @property
    def broken(self) -> int:
        """Requests without a whole answer."""
        return sum(client.broken for client in self.clients)

    @property
    def refused(self) -> Counter[int]:
        """Refusals by HTTP status."""
        return sum((client.refused for client in self.clients), Counter[int]())

    def stop(self) -> None:
        """End the load; what is being answered is waited for.

        Raises:
            TimeoutError: A client hangs.
        """
        self._stop.set()
        for client in self.clients:
            if client.ident is not None:
                client.join(2 * _ANSWER_S)
                if client.is_alive():
                    raise TimeoutError(f"{client.name} hangs")

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    return [child for child, (parent, state) in _processes() if parent == pid and state != "Z"]


def running(pids: Sequence[int]) -> list[int]:
    """Those of some processes that run; a zombie does not."""
    alive = {pid for pid, (_, state) in _processes() if state != "Z"}
    return [pid for pid in pids if pid in alive]


def _processes() -> Generator[tuple[int, tuple[int, str]]]:
    """Pid, parent and state of all processes. Source: proc_pid_stat(5)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), (int(parent), state)
