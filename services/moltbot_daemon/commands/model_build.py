"""`model build`: a model as another engine's repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_daemon.commands.model_arguments import pairs
from moltbot_daemon.commands.model_gate import texts_of, told_of_gate
from moltbot_daemon.commands.model_named import named_model
from moltbot_daemon.commands.shell import OK
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.engine.config import EngineError
from moltbot_models.gate.judge import bounds_of
from moltbot_models.store.lock import digest_of, hash_files
from moltbot_models.targets.build import build

if TYPE_CHECKING:
    from moltbot_daemon.commands.shell import Shell


def build_model(shell: Shell) -> int:
    """Write a model repository for a target."""
    args = shell.args
    manifest, _ = named_model(shell, pairs("--set", args.set))
    if not manifest.path:
        raise InvalidArgument(f"{manifest.id}: runs elsewhere; there is nothing to build")
    bounds = bounds_of("embedding", pairs("--bound", args.bound)) if manifest.task == "embedding" else None
    out = args.out.absolute()
    try:
        digest = digest_of(hash_files(Path(manifest.path)))
        report = build(manifest, args.target, out, digest, texts_of(args.gate_texts), bounds, told_of_gate())
    except EngineError as error:
        raise InvalidArgument(f"{manifest.path}: {error}", reason="MODEL_UNSUPPORTED") from None
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file() and file.name != ".keep")
    judged = [str(check) for check in report.checks] if report else []
    shell.show({"out": str(out), "target": args.target, "files": files, "gate": judged}, "\n".join([*files, *judged]))
    return OK
