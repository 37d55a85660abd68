"""The servicer's side of a call in the same process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc.aio import AbortError, AioRpcError, Metadata

if TYPE_CHECKING:
    from collections.abc import Iterable

    Pairs = Iterable[tuple[str, str | bytes]]


class InProcessContext:
    """The servicer's side of one call: the part of `grpc.aio.ServicerContext` that a servicer of ours may use."""

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...], deadline_s: float | None) -> None:
        self._metadata = metadata
        self._deadline_s = deadline_s
        self.initial: Pairs = ()
        self.trailing: Pairs = ()
        self.status = grpc.StatusCode.OK
        self.text = ""

    def invocation_metadata(self) -> Any:
        """What the caller sent."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; `None` without one."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - time.monotonic())

    def peer(self) -> str:
        """Who calls: this process."""
        return "inprocess:"

    async def send_initial_metadata(self, initial_metadata: Pairs) -> None:
        """Send what comes first."""
        self.initial = tuple(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Pairs) -> None:
        """Set what comes last."""
        self.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What the servicer sends last."""
        return self.trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Say how it ends."""
        self.status = code

    def code(self) -> grpc.StatusCode:
        """How it ended."""
        return self.status

    def set_details(self, details: str) -> None:
        """Say why it ends so."""
        self.text = details

    def details(self) -> str:
        """Why it ended so."""
        return self.text

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Pairs = ()) -> NoReturn:
        """End the call with an error."""
        self.status, self.text = code, details
        self.trailing = (*self.trailing, *trailing_metadata)
        raise AbortError(f"{code.name}: {details}")

    def error(self, code: grpc.StatusCode | None = None, details: str | None = None) -> AioRpcError:
        """The error that the caller gets."""
        return AioRpcError(
            code or self.status,
            Metadata(*self.initial),
            Metadata(*self.trailing),
            self.text if details is None else details,
        )
