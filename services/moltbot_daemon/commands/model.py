"""`model`: the models of this installation, from a directory, a file or a URL to what is served."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from moltbot_daemon.commands.ask import served_models
from moltbot_daemon.commands.shell import FAILED, FOUND_DAMAGE, OK, Shell, tell
from moltbot_daemon.node_models import STATES, followed, read_states
from moltbot_mesh.audit.administration import SPILL, administration_event
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_models.manifest import Auth, Manifest, Task, problems_of
from moltbot_models.store.catalogue import Entry, ModelStore
from moltbot_models.store.lock import differences, hash_files
from moltbot_models.store.source import inspect
from moltbot_models.triton.repository import checked_options
from moltbot_router.source import read_table

if TYPE_CHECKING:
    import argparse

_URL = re.compile(r"^(https?|wss?|grpc|unix):")
_PROVIDERS = {"http": "openai", "https": "openai", "unix": "openai", "ws": "websocket", "wss": "websocket"}
_SERVED_S, _PROBE_S = 600.0, 10.0
_REPORT_BYTES = 256 << 20
_TENANT = "default"


def add(shell: Shell) -> int:
    """Add a model and wait until a running daemon serves it."""
    args, store = shell.args, ModelStore(shell.made().models_dir)
    source = str(args.source)
    manifest = _upstream(args, source) if _URL.match(source) else _local(args, Path(source))
    for key, message in problems_of(manifest):
        raise InvalidArgument(f"--{key.replace('_', '-')}: {message}")
    if (store.folder(manifest.id) / "manifest.yaml").exists() and not args.replace:
        raise InvalidArgument(f"a model {manifest.id!r} was added already; give another --id, or --replace")
    hashes: dict[str, str] = {}
    if manifest.path:
        hashes = hash_files(Path(manifest.path), _reading())
    elif args.check:
        asyncio.run(_answers(manifest, shell.places.cache_dir))
    began_s = time.time()
    entry = store.put(manifest, hashes)
    administration_event(shell.places.data_dir / SPILL, "model add", f"model:{manifest.id}", _TENANT)
    state = _await_served(shell, entry, began_s) if args.wait else None
    return _tell_added(shell, entry, state)


def _local(args: argparse.Namespace, path: Path) -> Manifest:
    """A manifest for a directory on this machine."""
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - links stay links
    found = inspect(path, args.context_length)
    task = cast("Task", args.type or found.task)
    model_id = args.id or re.sub(r"[^A-Za-z0-9._-]+", "-", path.name).strip("-.").lower()
    options = _pairs("--set", args.set)
    checked_options(model_id, task, options)
    manifest = Manifest(
        model_id, task, "triton", path=str(path), context_length=found.context_length, marks=task == "text-generation"
    )
    return dataclasses.replace(manifest, options=options, **_common(args))


def _upstream(args: argparse.Namespace, url: str) -> Manifest:
    """A manifest for a server that runs elsewhere."""
    scheme = url.partition(":")[0]
    provider = args.provider or ("triton" if scheme == "grpc" else _PROVIDERS[scheme])
    if not args.id:
        raise InvalidArgument("an upstream needs --id, the name that clients ask for")
    if args.set:
        raise InvalidArgument("--set is for models that run here; an upstream has its own settings")
    endpoint = url.removeprefix("grpc://") if scheme == "grpc" else url
    secret: dict[str, Any] = {"key_env": args.key_env or "", "key_file": args.key_file or ""}
    auth = Auth("bearer", **secret) if any(secret.values()) else Auth()
    manifest = Manifest(
        args.id,
        cast("Task", args.type or "text-generation"),
        provider,
        endpoint=endpoint,
        upstream_model=args.upstream_model or "",
        auth=auth,
        context_length=args.context_length or 0,
    )
    return dataclasses.replace(manifest, **_common(args))


async def _answers(manifest: Manifest, cache_dir: Path) -> None:
    """Ask an upstream whether it is there.

    Raises:
        MoltbotError: It does not answer, or its secret is not there.
    """
    from moltbot_models.providers import open_upstream  # noqa: PLC0415 - brings an HTTP client
    from moltbot_models.providers.base import UpstreamContext  # noqa: PLC0415
    from moltbot_models.providers.engines import EngineHost  # noqa: PLC0415

    upstream = open_upstream(manifest, UpstreamContext(cache_dir, os.environ, EngineHost()))
    try:
        async with asyncio.timeout(_PROBE_S):
            await upstream.probe()
    except TimeoutError:
        raise Unavailable(f"{manifest.id}: no answer within {_PROBE_S:g} s; --no-check adds it all the same") from None
    except Unavailable as error:
        raise Unavailable(f"{error.message}; --no-check adds it all the same", reason=error.reason) from None
    finally:
        await upstream.aclose()


def _common(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"labels": _pairs("--label", args.label), "tenants": tuple(args.tenant or ())}
    if args.max_tokens:
        found["max_tokens"] = args.max_tokens
    return found


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise InvalidArgument(f"{option} {text}: write key=value")
        pairs[key.strip()] = value.strip()
    return pairs


def _reading() -> Any:
    """Progress of hashing, on a terminal, for what takes a while."""
    last = [0.0]

    def told(name: str, done: int, total: int) -> None:
        if total > _REPORT_BYTES and sys.stderr.isatty() and (time.monotonic() - last[0] > 0.2 or done == total):
            last[0] = time.monotonic()
            end = "\n" if done == total else ""
            print(f"\rhashing {name:<40.40} {done / total:4.0%}", end=end, file=sys.stderr, flush=True)  # noqa: T201

    return told


def _await_served(shell: Shell, entry: Entry, began_s: float) -> Any:
    """The state of a model in the running daemon; None if no daemon runs."""
    places, model_id = shell.places, entry.manifest.id
    if not followed(places.run_dir):
        return None
    until_s, told = time.monotonic() + _SERVED_S, False
    while time.monotonic() < until_s and followed(places.run_dir):
        state = read_states(places.run_dir).get(model_id)
        try:
            fresh = (places.run_dir / STATES).stat().st_mtime >= began_s - 0.01
        except OSError:
            fresh = False
        if fresh and state is not None and state.revision == entry.manifest.revision and state.state != "loading":
            return state
        if state is not None and state.state == "loading" and not told:
            told = True
            tell(f"moltbot: the daemon loads {model_id}")
        time.sleep(0.1)
    return None


def _tell_added(shell: Shell, entry: Entry, state: Any) -> int:
    manifest = entry.manifest
    shown: dict[str, Any] = {"id": manifest.id, "revision": manifest.revision, "folder": str(entry.folder)}
    if state is None:
        shown["state"] = "added"
        shell.show(shown, f"added {manifest.id}; a daemon on {shell.places.data_dir} serves it")
        return OK
    shown |= dataclasses.asdict(state)
    if state.state == "failed":
        shell.show(shown, f"added {manifest.id}, but the daemon cannot serve it: {state.detail}")
        return FAILED
    shell.show(shown, f"{manifest.id} is served (loaded in {state.seconds:.1f} s)")
    return OK


def model_list(shell: Shell) -> int:
    """List the models: those that a running daemon serves, those of the store that it does not, else the files'."""
    entries, problems = ModelStore(shell.places.models_dir).entries()
    states = read_states(shell.places.run_dir)
    try:
        found = asyncio.run(served_models(shell))
        running = True
    except MoltbotError as error:
        tell(f"{error.message}; showing the files")
        table = read_table(shell.settings.router, 1)
        found = [_row(manifest, "not running") for manifest in table.models.values()]
        running = False
    served = {row["id"] for row in found}
    for entry in entries:
        if entry.manifest.id not in served:
            state = states.get(entry.manifest.id) if running else None
            said = "not running" if state is None else state.state
            found.append(_row(entry.manifest, said, state.detail if state else ""))
    for problem in problems:
        tell(problem)
    lines = [f"{row['id']:<28} {row['task']:<16} {row['provider']:<13} {row['state']}" for row in found]
    lines += [f"  {row['id']}: {row['detail']}" for row in found if row.get("detail")]
    shell.show(found, "\n".join(lines) or "no models")
    return OK


def _row(manifest: Manifest, state: str, detail: str = "") -> dict[str, Any]:
    row = {"id": manifest.id, "task": manifest.task, "provider": manifest.provider, "endpoint": manifest.endpoint}
    return {**row, "state": state, "in_flight": 0} | ({"detail": detail} if detail else {})


def show_model(shell: Shell) -> int:
    """Show all that is known of a model that was added."""
    entry = ModelStore(shell.places.models_dir).get(shell.args.id)
    tree = {key: value for key, value in _plain(entry.manifest).items() if value not in ("", 0, [], {})}
    state = read_states(shell.places.run_dir).get(entry.manifest.id)
    tree["state"] = state.state if state and followed(shell.places.run_dir) else "not running"
    if state and state.detail:
        tree["detail"] = state.detail
    tree["files"], tree["gate"] = entry.hashes(), entry.report
    lines = [f"{key:<18} {value}" for key, value in tree.items() if key not in {"files", "gate"}]
    lines += [f"{'file':<18} {name}  sha256 {digest[:16]}…" for name, digest in tree["files"].items()]
    lines.append(f"{'gate':<18} {entry.report or 'not measured'}")
    shell.show(tree, "\n".join(lines))
    return OK


def _plain(manifest: Manifest) -> dict[str, Any]:
    tree: dict[str, Any] = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest)}
    auth = manifest.auth
    tree["auth"] = (
        {"type": auth.type, "key_env": auth.key_env, "key_file": auth.key_file} if auth.type != "none" else ""
    )
    return {
        key: dict(value) if hasattr(value, "items") else list(value) if isinstance(value, tuple) else value
        for key, value in tree.items()
    }


def remove(shell: Shell) -> int:
    """Forget a model; a running daemon serves it no more. Its own directory stays."""
    store, model_id = ModelStore(shell.places.models_dir), shell.args.id
    store.remove(model_id)
    administration_event(shell.places.data_dir / SPILL, "model remove", f"model:{model_id}", _TENANT)
    shell.show({"removed": model_id}, f"removed {model_id}")
    return OK


def verify(shell: Shell) -> int:
    """Check the files of models against the hashes that were locked when they were added."""
    store = ModelStore(shell.places.models_dir)
    entries, problems = ([store.get(shell.args.id)], []) if shell.args.id else store.entries()
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.manifest.path:
            path = Path(entry.manifest.path)
            hashes = hash_files(path, _reading()) if path.is_dir() else {}
            found[entry.manifest.id] = differences(entry.hashes(), hashes)
    lines = [f"{model_id}: {'as added' if not said else '; '.join(said)}" for model_id, said in found.items()]
    shell.show({"models": found, "problems": problems}, "\n".join([*lines, *problems]) or "no models with files")
    return FOUND_DAMAGE if problems or any(found.values()) else OK
