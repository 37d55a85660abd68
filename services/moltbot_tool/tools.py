"""What a tool is, and the registry of them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import jsonschema
import msgspec

from moltbot_mesh.errors import DeadlineExceeded, FieldViolation, InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from moltbot_mesh.threads import Threads

_MAX_ARGUMENT_DEPTH = 32
_NOT_RECORDED = contextlib.nullcontext()


class Effect(Enum):
    """What a call may do to the world."""

    PURE = "pure"
    READ = "read"
    WRITE = "write"
    """Changes something: recorded durably before it runs."""


class ToolFailure(Exception):
    """A tool ran and failed; the message is for the model, which may try again."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool."""

    name: str
    description: str
    """For the model."""
    parameters: Mapping[str, Any]
    """JSON Schema (2020-12) of the arguments, an object."""
    run: Callable[[Mapping[str, Any]], str]
    """Runs it on valid arguments, in a thread. Raises `ToolFailure`."""
    effect: Effect = Effect.PURE
    timeout_s: float = 5.0
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call."""

    content: str
    failed: bool


class Registry:
    """The tools, who may call them, and their calls.

    Args:
        tools: All of them.
        tenants: Names of tools by tenant; a tenant that is not named may call all.
        max_result_bytes: Longest result.
        threads: Run them; the event loop's own if there are none.
        effect: Entered with tenant and tool around each call that may change something; what it refuses does not run.

    Raises:
        ValueError: Two tools have one name, or one that changes something would not be recorded.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        tenants: Mapping[str, Sequence[str]],
        max_result_bytes: int,
        threads: Threads | None = None,
        effect: Callable[[str, str], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self._validators: dict[str, Any] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are named {tool.name!r}")
            if tool.effect is Effect.WRITE and effect is None:
                raise ValueError(f"the tool {tool.name!r} changes something, and nothing would record it")
            jsonschema.Draft202012Validator.check_schema(dict(tool.parameters))
            self._tools[tool.name] = tool
            self._validators[tool.name] = jsonschema.Draft202012Validator(dict(tool.parameters))
        self._tenants = tenants
        self._max_result_bytes = max_result_bytes
        self._effect = effect
        self._in_thread = asyncio.to_thread if threads is None else threads.run

    def tools(self, tenant: str) -> list[Tool]:
        """The tools that a tenant may call, in order of name."""
        return [self._tools[name] for name in sorted(self._tools) if self._may_call(tenant, name)]

    def get(self, tenant: str, name: str) -> Tool:
        """One tool.

        Raises:
            NotFound: There is none of this name, or the tenant may not call it.
        """
        if name not in self._tools or not self._may_call(tenant, name):
            there = ", ".join(tool.name for tool in self.tools(tenant))
            raise NotFound(f"no tool is named {name!r}; there are: {there}", reason="TOOL_NOT_FOUND")
        return self._tools[name]

    def _may_call(self, tenant: str, name: str) -> bool:
        allowed = self._tenants.get(tenant)
        return allowed is None or name in allowed

    async def call(self, tenant: str, name: str, arguments: str) -> Result:
        """Run a tool.

        Args:
            tenant: For whom.
            name: Which.
            arguments: JSON text.

        Raises:
            NotFound: No such tool for this tenant.
            InvalidArgument: The arguments are not JSON or do not match the schema; the violations name the places.
            DeadlineExceeded: It took too long.
            ResourceExhausted: Too many calls wait for a thread.
            Unavailable: It would change something, and that cannot be recorded.
        """
        tool = self.get(tenant, name)
        values = self._checked(tool, arguments)
        recorded = self._effect(tenant, name) if self._effect and tool.effect is Effect.WRITE else _NOT_RECORDED
        try:
            async with recorded, asyncio.timeout(tool.timeout_s):
                content = await self._in_thread(tool.run, values)
        except ToolFailure as failure:
            return Result(f"error: {failure}", failed=True)
        except TimeoutError:
            raise DeadlineExceeded(f"the tool {name} took longer than {tool.timeout_s:g} s") from None
        encoded = content.encode()
        if len(encoded) > self._max_result_bytes:
            content = encoded[: self._max_result_bytes].decode(errors="ignore") + " … (cut)"
        return Result(content, failed=False)

    def _checked(self, tool: Tool, arguments: str) -> Mapping[str, Any]:
        try:
            values = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidArgument(
                f"arguments of {tool.name}: not JSON: {error}",
                violations=[FieldViolation("arguments", f"not JSON: {error}")],
            ) from None
        if _depth(values) > _MAX_ARGUMENT_DEPTH:
            raise InvalidArgument(f"arguments of {tool.name}: nested deeper than {_MAX_ARGUMENT_DEPTH}")
        found = [
            FieldViolation(".".join(("arguments", *map(str, error.absolute_path))), error.message[:300])
            for error in self._validators[tool.name].iter_errors(values)
        ]
        if found:
            what = "; ".join(f"{violation.field}: {violation.description}" for violation in found[:4])
            raise InvalidArgument(f"arguments of {tool.name} do not match its schema: {what}", violations=found)
        return cast("Mapping[str, Any]", values)


def _depth(value: object, limit: int = _MAX_ARGUMENT_DEPTH + 1) -> int:
    if limit == 0 or not isinstance(value, dict | list):
        return 0
    below = cast("Iterable[object]", value.values() if isinstance(value, dict) else value)
    return 1 + max((_depth(item, limit - 1) for item in below), default=0)
