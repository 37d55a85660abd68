"""Manifests: the models of the mesh, where each runs and how it is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from moltbot_mesh.errors import FailedPrecondition
from moltbot_models.tls import Tls, grpc_target, is_local

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Task = Literal["text-generation", "embedding", "rerank", "classification"]
AuthType = Literal["none", "api_key", "bearer"]
Modality = Literal["text", "image", "audio"]

DEFAULT_TIMEOUT_S = 60.0
DEFAULT_IDLE_TIMEOUT_S = 30.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")
_HEADER = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
_SCHEMES = {
    "openai": ("http://", "https://", "unix:"),
    "generic_http": ("http://", "https://", "unix:"),
    "websocket": ("ws://", "wss://"),
}
_TEXT_ALONE = frozenset({"generic_http", "websocket"})
_TLS_SCHEMES = ("https://", "wss://", "grpcs://")


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
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """How an engine of the mesh's own runs it: precision, threads, cache and the like, as texts."""
    revision: str = ""
    """Digest of weights and options; an upstream is opened anew when it changes."""
    input_modalities: tuple[Modality, ...] = ()
    """What may stand in a conversation beside text; empty means text alone."""
    tls: Tls = field(default_factory=Tls)
    """Towards an upstream on another machine."""


def taken(input_modalities: Iterable[str]) -> tuple[Modality, ...]:
    """All that may stand in a conversation, text first: a model that declares images takes text too."""
    declared = {"text", *input_modalities}
    return tuple(modality for modality in get_args(Modality) if modality in declared)


def leaves_the_machine(manifest: Manifest) -> bool:
    """Whether a call of the model goes to another machine, as far as its endpoint says."""
    endpoint = manifest.endpoint
    if not endpoint or endpoint.startswith("unix:"):
        return False
    authority = endpoint.rpartition("://")[2].partition("/")[0]
    host = authority.rpartition(":")[0] if not authority.endswith("]") else authority
    return (host or authority).strip("[]") not in _LOOPBACK


def engine_options(manifest: Manifest) -> dict[str, str]:
    """How an engine of the mesh's own runs a model: its options, and the context that the manifest grants."""
    options = dict(manifest.options)
    if manifest.task == "text-generation" and manifest.context_length:
        options.setdefault("context_length", str(manifest.context_length))
    return options


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
    if said := _modality_problem(manifest):
        found.append(("input_modalities", said))
    found += _tls_problems(manifest)
    auth = manifest.auth
    if auth.type not in get_args(AuthType):
        found.append(("auth.type", f"auth.type must be one of {', '.join(get_args(AuthType))}"))
    sources = sum(bool(source) for source in (auth.key, auth.key_env, auth.key_file))
    if auth.type != "none" and sources != 1:
        found.append(("auth", "auth needs exactly one of key, key_env and key_file"))
    if auth.header and not _HEADER.match(auth.header):
        found.append(("auth.header", "auth.header must be the name of an HTTP header, such as X-Api-Key"))
    return found


def _modality_problem(manifest: Manifest) -> str:
    unknown = [repr(name) for name in manifest.input_modalities if name not in get_args(Modality)]
    if unknown:
        return f"no model takes {', '.join(unknown)}; known are {', '.join(get_args(Modality))}"
    if len(set(manifest.input_modalities)) < len(manifest.input_modalities):
        return "names a thing twice; once is enough"
    if manifest.provider in _TEXT_ALONE and len(taken(manifest.input_modalities)) > 1:
        return f"the protocol {manifest.provider} carries text alone; images and sounds need another, such as openai"
    return ""


def _tls_problems(manifest: Manifest) -> list[tuple[str, str]]:
    tls, endpoint = manifest.tls, manifest.endpoint
    found: list[tuple[str, str]] = []
    if bool(tls.cert_file) != bool(tls.key_file):
        found.append(("tls", "tls.cert_file and tls.key_file belong together; give both or none"))
    if tls.encrypts and not endpoint.startswith(_TLS_SCHEMES):
        found.append(("tls", f"tls is for an endpoint that begins with {' or '.join(_TLS_SCHEMES)}"))
    if manifest.provider != "triton" or not endpoint:
        return found
    try:
        target, encrypted = grpc_target(endpoint)
    except ValueError:
        forms = "grpcs://host:8001, host:8001 or unix:/path"
        return [*found, ("endpoint", f"the endpoint of triton is a gRPC target: {forms}")]
    if not (encrypted or is_local(target) or tls.plain_text):
        said = f"{target} is another machine, and prompts would go there as plain text: write grpcs://{target} with "
        said += "`tls`, or allow it in a network that you trust, in a manifest: `tls: {plain_text: true}`"
        found.append(("endpoint", said))
    return found
