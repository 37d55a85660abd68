"""`model bench`: how fast a model is under load, and with `--tune` which options make it faster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moltbot_daemon.commands.model_gate import texts_of
from moltbot_daemon.commands.model_named import named_model
from moltbot_daemon.commands.shell import OK, Shell, tell
from moltbot_mesh.audit.administration import SPILL, administration_event
from moltbot_mesh.errors import InvalidArgument, MoltbotError
from moltbot_models.engine.config import EngineError
from moltbot_models.gate.texts import shipped_texts
from moltbot_models.manifest import engine_options
from moltbot_models.store.catalogue import ModelStore
from moltbot_models.store.lock import hash_files
from moltbot_models.triton.repository import checked_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moltbot_models.gate.report import GateReport
    from moltbot_models.manifest import Manifest
    from moltbot_models.store.catalogue import Entry
    from moltbot_models.triton.provision import TritonRuntime
    from moltbot_models.tuning.bed import Bed
    from moltbot_models.tuning.load import Figures, Workload
    from moltbot_models.tuning.search import Found, Trial

_MOST_CLIENTS = 256
_UNITS = {"text-generation": "tokens"}
_PRECISION = frozenset({"weights", "compute", "kv", "precision"})
"""Options that change what a model says."""
_TENANT = "default"


def bench(shell: Shell) -> int:
    """Measure a model, or tune it."""
    from moltbot_models.tuning.bed import opened  # noqa: PLC0415 - brings numpy and the providers

    args = shell.args
    manifest, entry = named_model(shell)
    clients = _clients(args.clients)
    triton = None if manifest.endpoint or args.engine == "embedded" else _triton(shell)
    if args.tune and not manifest.path:
        raise InvalidArgument("--tune is for models that run here; an upstream has its own settings")
    if args.write and not (args.tune and entry):
        raise InvalidArgument("--write goes with --tune, for a model that was added")

    async def run() -> int:
        async with opened(triton, shell.places.cache_dir) as bed:
            if args.tune:
                return await _tuned(shell, bed, manifest, entry, clients)
            return await _measured(shell, bed, manifest, clients)

    try:
        return asyncio.run(run())
    except EngineError as error:
        raise InvalidArgument(f"{manifest.path}: {error}", reason="MODEL_UNSUPPORTED") from None


def _clients(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= _MOST_CLIENTS:
        raise InvalidArgument(f"--clients {text}: numbers from 1 to {_MOST_CLIENTS}, with commas: 1,8,32")
    return found


def _triton(shell: Shell) -> TritonRuntime | None:
    from moltbot_models.triton.provision import ensure_triton  # noqa: PLC0415 - only where it is used

    try:
        return ensure_triton(shell.places.cache_dir, lambda said: tell(f"moltbot: {said}"))
    except MoltbotError as error:
        if shell.args.engine == "triton":
            raise
        tell(f"moltbot: {error.message}; measuring in this process")
        return None


def _workload(shell: Shell, manifest: Manifest, name: str) -> Workload:
    from moltbot_models.tuning.load import Workload  # noqa: PLC0415 - brings numpy

    args = shell.args
    texts = texts_of(args.texts)
    lines = (*texts.calibration, *texts.held_out)
    return Workload(manifest.task, name, lines, args.tokens_in, args.tokens_out)


async def _measured(shell: Shell, bed: Bed, manifest: Manifest, clients: Sequence[int]) -> int:
    from moltbot_models.tuning.load import measure  # noqa: PLC0415 - brings numpy
    from moltbot_models.tuning.show import svg_plot, table, terminal_plot  # noqa: PLC0415

    args, levels = shell.args, list[Any]()
    unit = _UNITS.get(manifest.task, "texts")
    async with bed.model(manifest) as (upstream, name):
        work = _workload(shell, manifest, name)
        tell(f"moltbot: warming {manifest.id} up")
        await measure(upstream, work, clients[-1], min(1.0, args.seconds), bed.cpu_s, bed.rss_mib)
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C shows what there is
            for count in clients:
                tell(f"moltbot: {count} clients for {args.seconds:g} s")
                levels.append(await measure(upstream, work, count, args.seconds, bed.cpu_s, bed.rss_mib))
    if not levels:
        raise InvalidArgument("stopped before anything was measured")
    if args.plot:
        args.plot.write_text(svg_plot(levels, unit, manifest.id), "utf-8")
    rows = [dataclasses.asdict(level) for level in levels]
    picture = f"\n\n{terminal_plot(levels, unit)}" if len(levels) > 1 else ""
    shell.show({"model": manifest.id, "unit": unit, "levels": rows}, table(levels, unit) + picture)
    return OK


async def _tuned(shell: Shell, bed: Bed, manifest: Manifest, entry: Entry | None, clients: Sequence[int]) -> int:
    from moltbot_models.tuning.search import search, space  # noqa: PLC0415

    args = shell.args
    values = space(manifest.task, os.cpu_count() or 1)
    known = checked_options(manifest.id, manifest.task, engine_options(manifest))
    start = {option: known[option] for option in values}
    until = time.monotonic() + 60 * args.minutes
    gate = _Gate(manifest, start)

    async def compare(first: dict[str, str], second: dict[str, str]) -> list[tuple[float, float]]:
        return await _in_turns(shell, bed, manifest, [first, second], 1 if args.tune == "latency" else clients[-1])

    def told(trial: Trial) -> None:
        outcome = trial.note or f"{trial.gain:+.1%}, {'taken' if trial.taken else 'not taken'}"
        tell(f"moltbot: {trial.option}={trial.value}: {outcome}")

    found = await search(start, values, compare, gate.refusal, lambda: time.monotonic() < until, told)
    changed = {option: value for option, value in found.options.items() if value != start[option]}
    if args.write and entry is not None and changed:
        report = await gate.report(found.options) if _PRECISION & changed.keys() else entry.report
        keep(ModelStore(shell.places.models_dir), entry, changed, report)
        administration_event(shell.places.data_dir / SPILL, "model tune", f"model:{manifest.id}", _TENANT)
    _tell_found(shell, manifest, found, changed)
    return OK


def keep(store: ModelStore, entry: Entry, changed: Mapping[str, str], report: GateReport | None) -> None:
    """Write options into the manifest of a model that was added.

    The hashes stay those that were locked: tuning is no way to have changed files served.

    Args:
        store: Has the model.
        entry: The model.
        changed: Options to set.
        report: Of these options; that of before where they say the same, whatever was demanded of it then.
    """
    manifest = dataclasses.replace(entry.manifest, options={**entry.manifest.options, **changed})
    store.put(manifest, entry.hashes(), report)


async def _in_turns(
    shell: Shell, bed: Bed, manifest: Manifest, both: Sequence[dict[str, str]], clients: int
) -> list[tuple[float, float]]:
    """Scores of two sets of options, measured in turns with both loaded; greater is better."""
    from moltbot_models.tuning.load import measure  # noqa: PLC0415 - brings numpy
    from moltbot_models.tuning.search import TURNS  # noqa: PLC0415

    args = shell.args
    async with contextlib.AsyncExitStack() as stack:
        ready: list[Any] = []
        for place, options in enumerate(both):
            one = dataclasses.replace(
                manifest, id=f"candidate-{place}", options={**manifest.options, **options}, revision=str(options)
            )
            upstream, name = await stack.enter_async_context(bed.model(one))
            ready.append((upstream, _workload(shell, manifest, name)))
            await measure(upstream, ready[-1][1], clients, min(0.5, args.seconds), bed.cpu_s, bed.rss_mib)
        turns: list[tuple[float, float]] = []
        for _ in range(TURNS):
            scores = [
                _score(args, await measure(upstream, work, clients, args.seconds, bed.cpu_s, bed.rss_mib))
                for upstream, work in ready
            ]
            turns.append((scores[0], scores[1]))
        return turns


def _score(args: Any, level: Figures) -> float:
    """Greater is better: answers a second of a lone client, or units a second that keep the p99 that is asked."""
    if level.failures or not level.p50_ms:
        return 0.0
    if args.tune == "latency":
        return 1e3 / level.p50_ms
    if args.max_p99_ms and level.p99_ms > args.max_p99_ms:
        # Worse than any that keeps it, and the worse the further away.
        return level.units_per_s * 1e-3 * args.max_p99_ms / level.p99_ms
    return level.units_per_s


class _Gate:
    """Refuses options that cannot go together, or whose answers stray too far from FP32."""

    def __init__(self, manifest: Manifest, start: dict[str, str]) -> None:
        self._manifest = manifest
        self._known: dict[tuple[tuple[str, str], ...], str] = {self._key(start): ""}
        """What serves now was let through when it was added."""
        self._reports: dict[tuple[tuple[str, str], ...], GateReport | None] = {}

    async def refusal(self, options: dict[str, str]) -> str:
        """Why options must not be tried; empty if they may."""
        key = self._key(options)
        if key not in self._known:
            try:
                report = await self.report(options)
                self._known[key] = "" if report is None or report.passed else "too far from FP32"
            except EngineError as error:
                self._known[key] = str(error)
        return self._known[key]

    async def report(self, options: dict[str, str]) -> GateReport | None:
        """The gate's report of options; None where the model is its own reference."""
        from moltbot_models.gate.judge import bounds_of, judge  # noqa: PLC0415 - brings numpy
        from moltbot_models.store.lock import digest_of  # noqa: PLC0415

        key = self._key(options)
        if key not in self._reports:
            manifest = dataclasses.replace(self._manifest, options={**self._manifest.options, **options})
            digest = digest_of(await asyncio.to_thread(hash_files, Path(manifest.path)))
            bounds = bounds_of(manifest.task, {})
            self._reports[key] = await asyncio.to_thread(judge, manifest, digest, shipped_texts(), bounds)
        return self._reports[key]

    def _key(self, options: dict[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((option, value) for option, value in options.items() if option in _PRECISION))


def _tell_found(shell: Shell, manifest: Manifest, found: Found, changed: dict[str, str]) -> None:
    lines = [
        f"{f'{one.option}={one.value}':<24} {one.note or f'{one.gain:+7.1%}'}{', taken' if one.taken else ''}"
        for one in found.trials
    ]
    settings = " ".join(f"--set {option}={value}" for option, value in changed.items()) or "as it is"
    ended = "" if found.complete else " (time was over before all was tried)"
    shell.show(
        {
            "model": manifest.id,
            "goal": shell.args.tune,
            "options": found.options,
            "changed": changed,
            "complete": found.complete,
            "written": bool(shell.args.write and changed),
            "trials": [dataclasses.asdict(trial) for trial in found.trials],
        },
        "\n".join([*lines, f"best for {shell.args.tune}: {settings}{ended}"]),
    )
