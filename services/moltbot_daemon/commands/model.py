"""`model list`, `show`, `remove`, `verify`: the models of this installation."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moltbot_daemon.commands.ask import served_models
from moltbot_daemon.commands.progress import told_while_hashing
from moltbot_daemon.commands.shell import FOUND_DAMAGE, OK, Shell, tell
from moltbot_daemon.node_models import followed, read_states
from moltbot_mesh.audit.administration import SPILL, administration_event
from moltbot_mesh.errors import MoltbotError
from moltbot_models.manifest import taken
from moltbot_models.store.catalogue import ModelStore
from moltbot_models.store.lock import differences, hash_files
from moltbot_router.source import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_models.manifest import Manifest

_TENANT = "default"


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
    lines = [f"{row['id']:<28} {_does(row):<22} {row['provider']:<13} {row['state']}" for row in found]
    lines += [f"  {row['id']}: {row['detail']}" for row in found if row.get("detail")]
    shell.show(found, "\n".join(lines) or "no models")
    return OK


def _row(manifest: Manifest, state: str, detail: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"id": manifest.id, "task": manifest.task, "provider": manifest.provider}
    row["endpoint"] = manifest.endpoint
    row["input_modalities"] = taken(manifest.input_modalities)
    return {**row, "state": state, "in_flight": 0} | ({"detail": detail} if detail else {})


def _does(row: Mapping[str, Any]) -> str:
    """Its task, and what it takes beside text."""
    return " +".join([row["task"], *(more for more in row["input_modalities"] if more != "text")])


def show_model(shell: Shell) -> int:
    """Show all that is known of a model that was added."""
    entry = ModelStore(shell.places.models_dir).get(shell.args.id)
    tree = {key: value for key, value in _plain(entry.manifest).items() if value not in ("", 0, [], {})}
    state = read_states(shell.places.run_dir).get(entry.manifest.id)
    tree["state"] = state.state if state and followed(shell.places.run_dir) else "not running"
    if state and state.detail:
        tree["detail"] = state.detail
    report = entry.report
    tree["files"] = entry.hashes()
    tree["gate"] = None if report is None else json.loads(report.to_json())
    lines = [f"{key:<18} {value}" for key, value in tree.items() if key not in {"files", "gate"}]
    lines += [f"{'file':<18} {name}  sha256 {digest[:16]}…" for name, digest in tree["files"].items()]
    lines.append(f"{'gate':<18} {'not judged' if report is None else 'passed' if report.passed else 'failed'}")
    lines += [f"{'':<18} {check}" for check in (report.checks if report else ())]
    shell.show(tree, "\n".join(lines))
    return OK


def _plain(manifest: Manifest) -> dict[str, Any]:
    tree: dict[str, Any] = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest)}
    auth = manifest.auth
    tree["tls"] = {key: value for key, value in dataclasses.asdict(manifest.tls).items() if value}
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
            hashes = hash_files(path, told_while_hashing()) if path.is_dir() else {}
            found[entry.manifest.id] = differences(entry.hashes(), hashes)
    lines = [f"{model_id}: {'as added' if not said else '; '.join(said)}" for model_id, said in found.items()]
    shell.show({"models": found, "problems": problems}, "\n".join([*lines, *problems]) or "no models with files")
    return FOUND_DAMAGE if problems or any(found.values()) else OK
