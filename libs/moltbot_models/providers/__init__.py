"""Upstream protocols: how the mesh reaches a model, one module a protocol, found as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import Upstream, UpstreamContext, UpstreamFactory

GROUP = "moltbot.providers"
"""The entry point group."""


def open_upstream(manifest: Manifest, context: UpstreamContext) -> Upstream:
    """Open the upstream of a manifest with the protocol it names.

    Raises:
        InvalidArgument: There is no such protocol, or the manifest does not fit it.
        FailedPrecondition: The protocol cannot be imported, or a secret or directory that it needs is not there.
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    point = known.get(manifest.provider)
    if point is None:
        raise InvalidArgument(
            f"model {manifest.id}: unknown provider {manifest.provider}; known are {', '.join(sorted(known)) or 'none'}"
        )
    try:
        factory = cast("UpstreamFactory", point.load())
    except ImportError as error:
        raise FailedPrecondition(
            f"model {manifest.id}: provider {manifest.provider} ({point.value}) cannot be imported: {error}"
        ) from error
    return factory(manifest, context)
