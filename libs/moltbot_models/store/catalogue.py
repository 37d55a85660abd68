"""A directory of models: one folder each, with manifest, lock and gate report, written so that no reader sees half."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moltbot_mesh.errors import InvalidArgument, MoltbotError, NotFound
from moltbot_models.gate.report import GateReport
from moltbot_models.manifest import Auth, Manifest
from moltbot_models.manifest_yaml import load_manifests
from moltbot_models.store.lock import digest_of, lock_text, read_lock
from moltbot_models.triton.repository import triton_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MANIFEST, LOCK, REPORT, WEIGHTS, RANGES = "manifest.yaml", "source.sha256", "gate.json", "weights", "int8"
"""Files of a model's folder; `weights-…` are directories, for what was imported, `int8-….json` calibrated ranges."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that was added."""

    manifest: Manifest
    folder: Path

    @property
    def report(self) -> GateReport | None:
        """The gate's report; None if the model was not judged.

        Raises:
            InvalidArgument: It cannot be read.
        """
        file = self.folder / REPORT
        try:
            return GateReport.from_json(file.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{file}: cannot be read: {error}; add the model again") from None

    def hashes(self) -> dict[str, str]:
        """The locked hashes; empty for an upstream, which has no files here.

        Raises:
            InvalidArgument: The lock cannot be read.
        """
        lock = self.folder / LOCK
        return read_lock(lock) if self.manifest.path else {}


class ModelStore:
    """The models under one directory.

    Args:
        root: Made when the first model is added.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, model_id: str) -> Path:
        """Where a model's files are, whether it is there or not."""
        return self.root / triton_name(model_id)

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a model is added, changed or removed; cheap."""
        found: list[tuple[str, int, int]] = []
        for file in sorted(self.root.glob(f"*/{MANIFEST}")):
            try:
                stat = file.stat()
            except OSError:
                continue
            found.append((str(file), stat.st_mtime_ns, stat.st_ino))
        return tuple(found)

    def entries(self) -> tuple[list[Entry], list[str]]:
        """All models in order of their ids, and what is wrong with those that cannot be read."""
        found: list[Entry] = []
        problems: list[str] = []
        for file in sorted(self.root.glob(f"*/{MANIFEST}")):
            try:
                found += [Entry(manifest, file.parent) for manifest in load_manifests(file)]
            except MoltbotError as error:
                problems.append(error.message)
        return sorted(found, key=lambda entry: entry.manifest.id), problems

    def get(self, model_id: str) -> Entry:
        """One model.

        Raises:
            NotFound: It was not added.
            InvalidArgument: Its manifest cannot be read.
        """
        file = self.folder(model_id) / MANIFEST
        if not file.exists():
            there = ", ".join(entry.manifest.id for entry in self.entries()[0]) or "none yet"
            raise NotFound(f"no model {model_id!r} was added; there are: {there}", reason="MODEL_NOT_FOUND")
        (manifest,) = load_manifests(file)
        return Entry(manifest, file.parent)

    def put(self, manifest: Manifest, hashes: Mapping[str, str], report: GateReport | None = None) -> Entry:
        """Add a model, or replace it. What an import left in its folder stays.

        Args:
            manifest: Its revision is set from the hashes and the options.
            hashes: Of its files; empty for an upstream.
            report: The gate's.
        """
        folder = self.folder(manifest.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hashes:
            # Judged anew with another verdict it is another revision, so that whoever follows the store looks again.
            refused = report is not None and not report.passed
            revision = revision_of({**hashes, **({"gate": "failed"} if refused else {})}, manifest.options)
            manifest = dataclasses.replace(manifest, revision=revision)
            write_file(folder / LOCK, lock_text(hashes))
        if report is None:
            (folder / REPORT).unlink(missing_ok=True)
        else:
            write_file(folder / REPORT, report.to_json())
        # Last: a manifest that is seen has its lock beside it.
        write_file(folder / MANIFEST, manifests_text([manifest]))
        return Entry(manifest, folder)

    def has(self, model_id: str) -> bool:
        """Whether a model was added."""
        return (self.folder(model_id) / MANIFEST).exists()

    def forget_earlier(self, entry: Entry) -> None:
        """Delete the imports and calibrated ranges of earlier versions; an engine that has them open keeps them."""
        for old in entry.folder.glob(f"{WEIGHTS}-*"):
            if str(old) != entry.manifest.path:
                shutil.rmtree(old, ignore_errors=True)
        for old in entry.folder.glob(f"{RANGES}-*.json"):
            if str(old) != entry.manifest.options.get("ranges"):
                old.unlink(missing_ok=True)

    def remove(self, model_id: str) -> None:
        """Forget a model, and delete what was imported for it; a directory of the user's own stays.

        Raises:
            NotFound: It was not added.
        """
        folder = self.folder(model_id)
        if not folder.is_dir():
            self.get(model_id)
        # First: without it the model is gone, whatever happens to the rest.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def revision_of(hashes: Mapping[str, str], options: Mapping[str, str]) -> str:
    """A digest of weights and options: 24 hexadecimal digits."""
    return digest_of({**hashes, "options": digest_of(options)})[:24]


def manifests_text(manifests: Iterable[Manifest]) -> str:
    """Manifests as a YAML file; what has its default is left out."""
    models = [_tree(manifest) for manifest in manifests]
    return "# Written by moltbot.\n" + yaml.safe_dump({"models": models}, sort_keys=False, allow_unicode=True)


def _tree(manifest: Manifest) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for field in dataclasses.fields(Manifest):
        value = getattr(manifest, field.name)
        if field.name in {"auth", "tls"}:
            given = {key: text for key, text in dataclasses.asdict(value).items() if text and value != Auth()}
            tree |= {field.name: given} if given else {}
        elif value != (field.default_factory() if callable(field.default_factory) else field.default):
            plain = list(value) if isinstance(value, tuple) else dict(value) if hasattr(value, "items") else value
            tree["type" if field.name == "task" else field.name] = plain
    return tree


def write_file(file: Path, text: str) -> None:
    """Write a file whole or not at all, for its owner alone.

    Raises:
        InvalidArgument: It cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidArgument(f"{file}: cannot be written: {error.strerror}") from None
