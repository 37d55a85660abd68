"""Follows the model store: what is added to it is served, what leaves it is not, without a restart.

The router reads one file, which is written here: the node's own models, then those of the store that can be served now.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import structlog

from moltbot_mesh.errors import FailedPrecondition, MoltbotError
from moltbot_models.store.catalogue import manifests_text, write_file
from moltbot_models.store.lock import differences, hash_files
from moltbot_models.store.placing import spec_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from moltbot_models.manifest import Manifest
    from moltbot_models.store.catalogue import Entry, ModelStore
    from moltbot_models.triton.server import TritonServer

log = structlog.get_logger("moltbot.daemon")

MANIFESTS, STATES, LOCK = "local-models.yaml", "models.json", "models.lock"
_LOOK_S = 0.5
_RETRY_S, _MAX_RETRY_S = 5.0, 300.0
_LEAVE_S = 3.0
"""Between a model's leaving the router's file and its unloading: routers and gateways hear of it within this time."""

State = Literal["loading", "serving", "failed"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """How a model of the store fares."""

    state: State
    revision: str
    detail: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """What loading took."""


class NodeModels:
    """The models that this node serves.

    Args:
        store: What people added.
        fixed: Manifests of the node's own models.
        triton: Serves local ones; `None`: the gateway's process does.
        run_dir: For the router's file and the states.
        local: Whether this node runs models at all.
    """

    def __init__(
        self, store: ModelStore, fixed: Sequence[Manifest], triton: TritonServer | None, run_dir: Path, *, local: bool
    ) -> None:
        self._store, self._fixed, self._triton, self._local = store, tuple(fixed), triton, local
        self.manifests = run_dir / MANIFESTS
        self._states_file, self._lock = run_dir / STATES, run_dir / LOCK
        self._served: dict[str, Manifest] = {}
        self._states: dict[str, ModelState] = {}
        self._taken: dict[str, Manifest] = {}
        """As they stand in the store."""
        self._failed: dict[str, tuple[int, float]] = {}
        """How often a model failed, and when it is tried again (monotonic seconds)."""
        self._problems: list[str] = []
        self._stamp: object = None
        self._leaving: set[asyncio.Task[None]] = set()

    def write(self) -> None:
        """Write the router's file and the states.

        Raises:
            InvalidArgument: They cannot be written.
        """
        write_file(self.manifests, manifests_text((*self._fixed, *self._served.values())))
        states = {model_id: dataclasses.asdict(state) for model_id, state in sorted(self._states.items())}
        write_file(self._states_file, json.dumps({"models": states, "problems": self._problems}, indent=1) + "\n")

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncGenerator[None]:
        """Follow the store while the context is open."""
        # Says to commands that somebody follows; it goes with the process, however that ends.
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        task = asyncio.create_task(self._follow(), name="model-store")
        try:
            yield
        finally:
            os.close(descriptor)
            for one in (task, *self._leaving):
                one.cancel()
            await asyncio.gather(task, *self._leaving, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            except (MoltbotError, OSError) as error:  # the disk; tried again
                log.error("model store not followed", error=str(error))
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Take over what has changed in the store since the last look, and try again what failed."""
        stamp = await asyncio.to_thread(self._store.stamp)
        due = {model_id for model_id, (_, at_s) in self._failed.items() if time.monotonic() >= at_s}
        due |= self._lost() - self._failed.keys()
        if stamp == self._stamp and not due:
            return
        entries, self._problems = await asyncio.to_thread(self._store.entries)
        for problem in self._problems:
            log.error("model not served: its manifest is not valid", error=problem)
        wanted = {entry.manifest.id: entry for entry in entries}
        await self._drop([model_id for model_id in self._states if model_id not in wanted])
        for entry in entries:
            if self._taken.get(entry.manifest.id) != entry.manifest or entry.manifest.id in due:
                await self._take(entry)
        self._stamp = stamp
        await asyncio.to_thread(self.write)

    async def _take(self, entry: Entry) -> None:
        manifest = entry.manifest
        revision, began_s = manifest.revision, time.monotonic()
        self._taken[manifest.id] = manifest
        self._states[manifest.id] = ModelState("loading", revision)
        await asyncio.to_thread(self.write)
        try:
            self._served[manifest.id] = await self._placed(entry)
        except (MoltbotError, OSError) as error:
            said = error.message if isinstance(error, MoltbotError) else str(error)
            tries, _ = self._failed.get(manifest.id, (0, 0.0))
            wait_s = min(_RETRY_S * 2**tries, _MAX_RETRY_S)
            former = manifest.id in self._served
            log.error(
                "model not served", model=manifest.id, error=said, former_version_serves=former, again_in_s=wait_s
            )
            self._states[manifest.id] = ModelState("failed", revision, said)
            self._failed[manifest.id] = tries + 1, time.monotonic() + wait_s
            return
        self._failed.pop(manifest.id, None)
        seconds = time.monotonic() - began_s
        self._states[manifest.id] = ModelState("serving", revision, seconds=round(seconds, 3))
        log.info("model served", model=manifest.id, revision=revision, seconds=round(seconds, 3))
        await asyncio.to_thread(self.write)

    async def _placed(self, entry: Entry) -> Manifest:
        manifest = entry.manifest
        if any(manifest.id == fixed.id for fixed in self._fixed):
            raise FailedPrecondition(f"the node has a model {manifest.id} of its own; add this one under another --id")
        if not manifest.path or manifest.endpoint:
            return manifest
        if not self._local:
            raise FailedPrecondition("this node runs no models: inference.engine is none")
        report = entry.report
        if report is not None:
            report.require()
        await asyncio.to_thread(_check_files, entry)
        if manifest.provider == "embedded" or self._triton is None:
            return dataclasses.replace(manifest, provider="embedded")
        served = self._served.get(manifest.id)
        same = served is not None and (served.revision, served.path) == (manifest.revision, manifest.path)
        if not same or manifest.id in self._lost():
            await self._triton.place(spec_of(manifest))
        return dataclasses.replace(manifest, provider="triton", endpoint=self._triton.endpoint)

    def _lost(self) -> set[str]:
        """Models that did not come back with a Triton that was started again."""
        return set() if self._triton is None else set(self._triton.failed)

    async def _drop(self, ids: Sequence[str]) -> None:
        for model_id in ids:
            del self._states[model_id], self._taken[model_id]
            self._failed.pop(model_id, None)
            left = self._served.pop(model_id, None)
            if left is not None and left.provider == "triton" and self._triton is not None:
                task = asyncio.create_task(self._leave(model_id), name=f"unload-{model_id}")
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
            log.info("model serves no more", model=model_id)

    async def _leave(self, model_id: str) -> None:
        assert self._triton is not None
        await asyncio.sleep(_LEAVE_S)
        if model_id not in self._states:  # it may have been added again
            await self._triton.withdraw(model_id)


def _check_files(entry: Entry) -> None:
    """Look whether the files are those that were added.

    Raises:
        FailedPrecondition: They are not.
    """
    path = Path(entry.manifest.path)
    if not path.is_dir():
        raise FailedPrecondition(f"{path}: is gone; bring it back, or `moltbot model remove {entry.manifest.id}`")
    said = differences(entry.hashes(), hash_files(path))
    if said:
        raise FailedPrecondition(
            f"{path}: not what was added: {'; '.join(said[:3])}; restore it, or `moltbot model add` it again"
        )


def followed(run_dir: Path) -> bool:
    """Whether a process follows the model store."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_states(run_dir: Path) -> dict[str, ModelState]:
    """What the running daemon says of the store's models; empty without one."""
    try:
        tree = json.loads((run_dir / STATES).read_bytes())["models"]
        return {model_id: ModelState(**state) for model_id, state in tree.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
