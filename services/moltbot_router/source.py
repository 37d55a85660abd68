"""Where the table comes from: files that are read again when they change.

A file that is not valid keeps the table that is in use; the log says file, line and how to mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.errors import InvalidArgument, MoltbotError
from moltbot_models.manifest_yaml import load_manifests
from moltbot_router.policy import Table
from moltbot_router.rules import load_rules

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from pathlib import Path

    Changed = Callable[[str, Mapping[str, str]], None]

    from moltbot_models.manifest import Manifest
    from moltbot_router.settings import RouterSettings

_MOST_DIGESTS = 16
log = structlog.get_logger("moltbot.router")


def read_table(settings: RouterSettings, version: int) -> Table:
    """Read models and rules.

    Raises:
        InvalidArgument: A file is not valid.
    """
    models: dict[str, Manifest] = {}
    for path in settings.models:
        if not path.exists():
            raise InvalidArgument(f"{path}: there is no such file or directory; mend router.models, or write it")
        for manifest in load_manifests(path):
            if manifest.id in models:
                raise InvalidArgument(f"{path}: the model {manifest.id!r} stands in another file of router.models too")
            models[manifest.id] = manifest
    if settings.rules is not None and not settings.rules.is_file():
        raise InvalidArgument(f"{settings.rules}: there is no such file; mend router.rules, or write it")
    rules = load_rules(settings.rules, models) if settings.rules else ()
    return Table(version, models, {rule.task_type: rule for rule in rules})


class TableSource:
    """The table in use, and its next versions.

    Args:
        settings: Names the files.
        changed: Told of each new version, and of files that are refused: what happened, and facts of it.

    Raises:
        InvalidArgument: A file is not valid at the start, when there is no older table to keep.
    """

    def __init__(self, settings: RouterSettings, changed: Changed | None = None) -> None:
        self._settings = settings
        self._changes = changed
        self._stamp = self._look()
        self._changed = asyncio.Condition()
        # Greater than any version of a router that ran before: whoever knows one of those must get this one.
        self.table = read_table(settings, time.time_ns() // 1_000)
        self.problem = ""
        """Why the files are not in use; empty when they are."""

    def _look(self) -> tuple[tuple[str, int, int], ...]:
        found: list[tuple[str, int, int]] = []
        for root in (*self._settings.models, self._settings.rules):
            for path in _files(root):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    async def reload(self) -> None:
        """Read the files again if they changed."""
        stamp = await asyncio.to_thread(self._look)
        if stamp == self._stamp:
            return
        try:
            table = await asyncio.to_thread(read_table, self._settings, self.table.version + 1)
        except MoltbotError as error:
            self._stamp, self.problem = stamp, error.message
            log.error("routing table kept: the new files are not valid", error=error.message)
            if self._changes is not None:
                self._changes("refuse routing table", {"why": error.message})
            return
        except OSError as error:  # the disk, not the file: tried again
            self.problem = str(error)
            log.error("routing table kept: the files cannot be read", error=str(error))
            return
        self._stamp, self.problem = stamp, ""
        async with self._changed:
            self.table = table
            self._changed.notify_all()
        if self._changes is not None:
            self._changes("change routing table", await asyncio.to_thread(self._digests))
        log.info("routing table read", version=table.version, models=len(table.models), rules=len(table.rules))

    def _digests(self) -> dict[str, str]:
        """What the table was read from: SHA-256 by file name."""
        found: dict[str, str] = {}
        for root in (*self._settings.models, self._settings.rules):
            for path in _files(root)[:_MOST_DIGESTS]:
                with contextlib.suppress(OSError):
                    found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    async def versions(self, known: int) -> AsyncGenerator[Table]:
        """Yield the table and each later version, beginning after `known`."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.table.version != known)  # noqa: B023 - read at once
                table = self.table
            known = table.version
            yield table

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Look at the files while the context is open."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(self._settings.reload_interval_s)
                await self.reload()

        task = asyncio.create_task(watch(), name="routing-files")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _files(root: Path | None) -> list[Path]:
    if root is None:
        return []
    return sorted(root.glob("*.yaml")) + sorted(root.glob("*.yml")) if root.is_dir() else [root]
