"""The model that `model bench` and `model build` name: one that was added, or a directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_daemon.commands.model_arguments import id_of
from moltbot_models.manifest import Manifest
from moltbot_models.store.catalogue import Entry, ModelStore
from moltbot_models.store.source import inspect
from moltbot_models.triton.repository import checked_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_daemon.commands.shell import Shell


def named_model(shell: Shell, options: Mapping[str, str] | None = None) -> tuple[Manifest, Entry | None]:
    """The manifest with some options changed, and the entry of a model that was added.

    Raises:
        MoltbotError: There is no such model, or no such option.
    """
    manifest, entry = _named(shell)
    if options:
        checked_options(manifest.id, manifest.task, options)
        manifest = dataclasses.replace(manifest, options={**manifest.options, **options})
    return manifest, entry


def _named(shell: Shell) -> tuple[Manifest, Entry | None]:
    name = str(shell.args.id)
    path = Path(name)
    if path.is_dir():
        path = path.resolve()
        found = inspect(path)
        manifest = Manifest(id_of(path.name), found.task, "triton", path=str(path), context_length=found.context_length)
        return manifest, None
    entry = ModelStore(shell.places.models_dir).get(name)
    return entry.manifest, entry
