"""Manifests on the wire: `moltbot.model.v1.Manifest` to and from the dataclass."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from moltbot.model.v1 import manifest_pb2

from moltbot_mesh.errors import FieldViolation, InvalidArgument
from moltbot_models.manifest import DEFAULT_IDLE_TIMEOUT_S, DEFAULT_TIMEOUT_S, Auth, Manifest, Task, problems_of
from moltbot_models.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Mapping

TASKS: Mapping[int, Task] = {
    manifest_pb2.TASK_TEXT_GENERATION: "text-generation",
    manifest_pb2.TASK_EMBEDDING: "embedding",
    manifest_pb2.TASK_RERANK: "rerank",
    manifest_pb2.TASK_CLASSIFICATION: "classification",
}
"""What models do, by the number on the wire."""
TASK_NUMBERS: Mapping[Task, Any] = {name: number for number, name in TASKS.items()}


def from_proto(proto: manifest_pb2.Manifest) -> Manifest:
    """Read a manifest; what is 0 on the wire takes its default.

    Raises:
        InvalidArgument: The manifest cannot be used; a violation names each field.
    """
    manifest = Manifest(
        id=proto.id,
        task=TASKS.get(proto.task, ""),  # pyright: ignore[reportArgumentType] - refused below
        provider=proto.provider,
        endpoint=proto.endpoint,
        upstream_model=proto.upstream_model,
        auth=Auth(
            type=proto.auth.type or "none",  # pyright: ignore[reportArgumentType] - refused below
            key=proto.auth.key,
            key_env=proto.auth.key_env,
            key_file=proto.auth.key_file,
            header=proto.auth.header,
        ),
        max_tokens=proto.max_tokens,
        context_length=proto.context_length,
        task_types=tuple(proto.task_types),
        tenants=tuple(proto.tenants),
        weight=proto.weight or 1,
        labels=MappingProxyType(dict(proto.labels)),
        path=proto.path,
        timeout_s=proto.timeout_s or DEFAULT_TIMEOUT_S,
        idle_timeout_s=proto.idle_timeout_s or DEFAULT_IDLE_TIMEOUT_S,
        marks=proto.marks,
        options=MappingProxyType(dict(proto.options)),
        revision=proto.revision,
        input_modalities=tuple(proto.input_modalities),  # pyright: ignore[reportArgumentType] - refused below
        tls=Tls(
            proto.tls.ca_file, proto.tls.cert_file, proto.tls.key_file, proto.tls.server_name, proto.tls.plain_text
        ),
    )
    if problems := problems_of(manifest):
        violations = [FieldViolation("task" if key == "type" else key, message) for key, message in problems]
        raise InvalidArgument(
            f"model {manifest.id}: " + "; ".join(violation.description for violation in violations),
            violations=violations,
        )
    return manifest


def to_proto(manifest: Manifest) -> manifest_pb2.Manifest:
    """Write a manifest, its secret included: strip `auth` before it leaves the mesh."""
    auth = manifest.auth
    return manifest_pb2.Manifest(
        id=manifest.id,
        task=TASK_NUMBERS[manifest.task],
        provider=manifest.provider,
        endpoint=manifest.endpoint,
        upstream_model=manifest.upstream_model,
        auth=manifest_pb2.Auth(
            type=auth.type, key=auth.key, key_env=auth.key_env, key_file=auth.key_file, header=auth.header
        ),
        max_tokens=manifest.max_tokens,
        context_length=manifest.context_length,
        task_types=manifest.task_types,
        tenants=manifest.tenants,
        weight=manifest.weight,
        labels=manifest.labels,
        path=manifest.path,
        timeout_s=manifest.timeout_s,
        idle_timeout_s=manifest.idle_timeout_s,
        marks=manifest.marks,
        options=manifest.options,
        revision=manifest.revision,
        input_modalities=manifest.input_modalities,
        tls=None if manifest.tls == Tls() else manifest_pb2.Tls(**asdict(manifest.tls)),
    )
