"""Manifests as people write them in YAML.

    models:
    - id: "local_llm_v1"
      type: "text-generation"
      provider: "generic_http"
      endpoint: "http://model-server:8080/v1/completions"
      auth: {type: "api_key", key: "your-auth-token"}
      max_tokens: 4096

The schema is closed: an unknown key, a wrong type or an id that stands twice is an error that names file, line and how
to mend it. Values are never quoted in an error, they may be secrets.
"""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.settings import read_yaml
from moltbot_models.manifest import Auth, Manifest, problems_of
from moltbot_models.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Lines = dict[tuple[str, ...], int]


def load_manifests(*paths: Path) -> tuple[Manifest, ...]:
    """Read manifests from YAML files; a directory stands for its `*.yaml` and `*.yml`, in order of their names.

    Raises:
        InvalidArgument: A file is not valid; one line for each problem, with file, line and how to mend it.
    """
    found: list[Manifest] = []
    places: dict[str, str] = {}
    problems: list[str] = []
    for path in (file for root in paths for file in _files(root)):
        try:
            tree, lines = read_yaml(path)
        except InvalidArgument as error:
            problems.append(error.message)
            continue
        reader = _Reader(path, lines, problems)
        for index, item in enumerate(reader.models(tree)):
            manifest = reader.manifest(("models", str(index)), item)
            if manifest is None:
                continue
            place = reader.place(("models", str(index), "id"))
            if manifest.id in places:
                problems.append(
                    f"{place}: model id {manifest.id} stands twice (first in {places[manifest.id]}); rename one"
                )
                continue
            places[manifest.id] = place
            found.append(manifest)
    if problems:
        raise InvalidArgument("\n".join(problems))
    return tuple(found)


def _files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.yaml"), *root.glob("*.yml")]) if root.is_dir() else [root]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.isprintable() else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**32 else None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 86_400 else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    return tuple(cast("list[str]", items)) if all(_text(item) for item in items) else None


def _options(value: object) -> Mapping[str, str] | None:
    """Numbers and truth values are taken as people write them: `threads: 2`, `deterministic: true`."""
    if not isinstance(value, dict):
        return None
    read: dict[str, str] = {}
    for key, item in cast("dict[object, object]", value).items():
        if not isinstance(key, str) or not isinstance(item, str | int):
            return None
        read[key] = str(item).lower() if isinstance(item, bool) else str(item)
    return MappingProxyType(read)


def _labels(value: object) -> Mapping[str, str] | None:
    if not isinstance(value, dict):
        return None
    pairs = cast("dict[object, object]", value)
    if not all(isinstance(part, str) for pair in pairs.items() for part in pair):
        return None
    return MappingProxyType(cast("dict[str, str]", pairs))


_TEXT = ("a text", _text)
_COUNT = ("a whole number, 0 or more", _count)
_SECONDS = ("seconds, 0 to 86400", _seconds)
_TEXTS = ('a list of texts (["a", "b"])', _texts)
_MANIFEST_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "id": _TEXT,
    "type": _TEXT,
    "provider": _TEXT,
    "endpoint": _TEXT,
    "upstream_model": _TEXT,
    "max_tokens": _COUNT,
    "context_length": _COUNT,
    "task_types": _TEXTS,
    "tenants": _TEXTS,
    "weight": _COUNT,
    "labels": ("a mapping of texts to texts", _labels),
    "path": _TEXT,
    "timeout_s": _SECONDS,
    "idle_timeout_s": _SECONDS,
    "marks": ("true or false", _flag),
    "options": ("a mapping of names to texts, whole numbers, true or false", _options),
    "revision": _TEXT,
    "input_modalities": _TEXTS,
}
_AUTH_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = dict.fromkeys(
    ("type", "key", "key_env", "key_file", "header"), _TEXT
)


_TLS_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    **dict.fromkeys(("ca_file", "cert_file", "key_file", "server_name"), _TEXT),
    "plain_text": ("true or false", _flag),
}


class _Reader:
    """Turns one file's tree into manifests and collects what is wrong with it."""

    def __init__(self, path: Path, lines: Lines, problems: list[str]) -> None:
        self._path, self._lines, self._problems = path, lines, problems

    def place(self, key: tuple[str, ...]) -> str:
        line = next((self._lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._lines), 1)
        return f"{self._path}:{line}"

    def _wrong(self, key: tuple[str, ...], message: str) -> None:
        self._problems.append(f"{self.place(key)}: {message}")

    def models(self, tree: dict[str, Any]) -> list[Any]:
        for key in tree:
            if key != "models":
                self._wrong((str(key),), f"unknown key {key}; the file has one key, `models`")
        items = tree.get("models")
        if items is None:
            return []
        if not isinstance(items, list):
            self._wrong(("models",), "`models` must be a list: one `- id: …` for each model")
            return []
        return cast("list[Any]", items)

    def manifest(self, at: tuple[str, ...], item: object) -> Manifest | None:
        before = len(self._problems)
        raw = self._mapping(at, item, (*_MANIFEST_KEYS, "auth", "tls"), "a model")
        if raw is None:
            return None
        auth = self._auth((*at, "auth"), raw.pop("auth", None))
        tls = self._tls((*at, "tls"), raw.pop("tls", None))
        values = self._values(at, raw, _MANIFEST_KEYS)
        for key in ("id", "type", "provider"):
            if not values.get(key) and key not in raw:
                self._wrong(at, f"`{key}` is missing; every model has id, type and provider")
        if len(self._problems) > before:
            return None
        values["task"] = values.pop("type")
        for key in ("timeout_s", "idle_timeout_s", "weight"):
            if not values.get(key, 1):
                del values[key]  # 0 asks for the default
        manifest = Manifest(**values, auth=auth, tls=tls)
        for key, message in problems_of(manifest):
            self._wrong((*at, *key.split(".")), message)
        return manifest if len(self._problems) == before else None

    def _auth(self, at: tuple[str, ...], item: object) -> Auth:
        if item is None:
            return Auth()
        raw = self._mapping(at, item, tuple(_AUTH_KEYS), "auth")
        return Auth() if raw is None else Auth(**self._values(at, raw, _AUTH_KEYS))

    def _tls(self, at: tuple[str, ...], item: object) -> Tls:
        raw = None if item is None else self._mapping(at, item, tuple(_TLS_KEYS), "tls")
        return Tls() if raw is None else Tls(**self._values(at, raw, _TLS_KEYS))

    def _mapping(self, at: tuple[str, ...], item: object, known: tuple[str, ...], what: str) -> dict[str, Any] | None:
        if not isinstance(item, dict):
            self._wrong(at, f"{what} must be a mapping (`key: value`)")
            return None
        raw = {str(key): value for key, value in cast("dict[object, object]", item).items()}
        for key in [key for key in raw if key not in known]:
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            self._wrong((*at, key), f"unknown key {key}; {mend}")
            del raw[key]
        return raw

    def _values(
        self, at: tuple[str, ...], raw: dict[str, Any], schema: Mapping[str, tuple[str, Callable[[object], Any]]]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in raw.items():
            kind, read = schema[key]
            values[key] = read(value)
            if values[key] is None:
                self._wrong((*at, key), f"{key} must be {kind}")
        return values
