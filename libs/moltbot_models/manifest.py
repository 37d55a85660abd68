"""Manifests: the models of the mesh, where each runs and how it is reached, as people write them in YAML.

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
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_mesh.settings import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Task = Literal["text-generation", "embedding"]
AuthType = Literal["none", "api_key", "bearer"]
Lines = dict[tuple[str, ...], int]

DEFAULT_TIMEOUT_S = 60.0
DEFAULT_IDLE_TIMEOUT_S = 30.0
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")
_HEADER = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
_SCHEMES = {
    "openai": ("http://", "https://", "unix:"),
    "generic_http": ("http://", "https://", "unix:"),
    "websocket": ("ws://", "wss://"),
}


@dataclass(frozen=True, slots=True)
class Auth:
    """How the mesh proves itself to an upstream. The secret stands in `key`, `key_env` or `key_file`."""

    type: AuthType = "none"
    key: str = field(default="", repr=False)
    """The secret itself. Prefer one of the others."""
    key_env: str = ""
    """Environment variable that holds the secret."""
    key_file: str = ""
    """File that holds the secret; white space around it is not part of it."""
    header: str = ""
    """Header for `api_key`, which then carries the secret alone; `Authorization: Bearer` if empty."""

    def headers(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The headers that prove the mesh to the upstream; empty for `none`.

        Raises:
            FailedPrecondition: The environment variable or the file is not there, or the secret cannot be a header.
        """
        if self.type == "none":
            return {}
        secret = self._secret(environ)
        if not secret or not secret.isascii() or not secret.isprintable():
            raise FailedPrecondition(f"{self._where()}: the upstream's secret is empty or not printable ASCII")
        if self.type == "api_key" and self.header:
            return {self.header: secret}
        return {"Authorization": f"Bearer {secret}"}

    def _secret(self, environ: Mapping[str, str]) -> str:
        if self.key_env:
            if self.key_env not in environ:
                raise FailedPrecondition(f"{self._where()}: not set; export it before the mesh starts")
            return environ[self.key_env].strip()
        if self.key_file:
            try:
                return Path(self.key_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise FailedPrecondition(f"{self._where()}: cannot be read: {type(error).__name__}") from None
        return self.key

    def _where(self) -> str:
        if self.key_env:
            return f"environment variable {self.key_env}"
        return f"key file {self.key_file}" if self.key_file else "auth.key"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model as the mesh knows it; the fields are those of `moltbot.model.v1.Manifest`."""

    id: str
    """The name clients ask for."""
    task: Task
    """What it does; `type` in YAML."""
    provider: str
    """The upstream protocol, an entry point of the group `moltbot.providers`."""
    endpoint: str = ""
    """Where the upstream listens: a URL, or `unix:/path.sock:/v1`. Empty for `embedded`."""
    upstream_model: str = ""
    """The model's name at the upstream; the id if empty."""
    auth: Auth = Auth()
    max_tokens: int = 0
    """Upper bound of tokens in an answer; 0 means the upstream decides."""
    context_length: int = 0
    """Tokens of prompt and answer together; 0 means unknown."""
    task_types: tuple[str, ...] = ()
    """Task types this model is preferred for when no rule names one."""
    tenants: tuple[str, ...] = ()
    """Tenants that may use it; empty means all."""
    weight: int = 1
    """For the `weighted` strategy."""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    path: str = ""
    """Directory of weights for `embedded` and `triton`: a standard Hugging Face directory."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds the upstream may take to the first token."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Seconds the upstream may stay silent between two tokens."""
    marks: bool = False
    """Whether answers may carry the mark."""


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
}
_AUTH_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = dict.fromkeys(
    ("type", "key", "key_env", "key_file", "header"), _TEXT
)


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
        raw = self._mapping(at, item, (*_MANIFEST_KEYS, "auth"), "a model")
        if raw is None:
            return None
        auth = self._auth((*at, "auth"), raw.pop("auth", None))
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
        manifest = Manifest(**values, auth=auth)
        for key, message in problems_of(manifest):
            self._wrong((*at, *key.split(".")), message)
        return manifest if len(self._problems) == before else None

    def _auth(self, at: tuple[str, ...], item: object) -> Auth:
        if item is None:
            return Auth()
        raw = self._mapping(at, item, tuple(_AUTH_KEYS), "auth")
        return Auth() if raw is None else Auth(**self._values(at, raw, _AUTH_KEYS))

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


def problems_of(manifest: Manifest) -> list[tuple[str, str]]:
    """What keeps a manifest from being used: pairs of YAML key (`auth.type`) and message."""
    found: list[tuple[str, str]] = []
    if len(manifest.id) > 128 or not _ID.match(manifest.id):
        found.append(("id", "an id begins with a letter or digit and has up to 128 of A-Z a-z 0-9 . _ : / -"))
    if manifest.task not in get_args(Task):
        found.append(("type", f"type must be one of {', '.join(get_args(Task))}"))
    if not manifest.provider:
        found.append(("provider", "provider names an upstream protocol, such as openai"))
    schemes = _SCHEMES.get(manifest.provider)
    if schemes and not manifest.endpoint.startswith(schemes):
        found.append(("endpoint", f"the endpoint of {manifest.provider} begins with {' or '.join(schemes)}"))
    if "@" in manifest.endpoint.partition("://")[2].partition("/")[0]:
        found.append(("endpoint", "the endpoint carries a user or password; put the secret into `auth`"))
    if manifest.provider == "embedded" and not manifest.path:
        found.append(("path", "embedded needs `path`: the directory of the model's weights"))
    auth = manifest.auth
    if auth.type not in get_args(AuthType):
        found.append(("auth.type", f"auth.type must be one of {', '.join(get_args(AuthType))}"))
    sources = sum(bool(source) for source in (auth.key, auth.key_env, auth.key_file))
    if auth.type != "none" and sources != 1:
        found.append(("auth", "auth needs exactly one of key, key_env and key_file"))
    if auth.header and not _HEADER.match(auth.header):
        found.append(("auth.header", "auth.header must be the name of an HTTP header, such as X-Api-Key"))
    return found
