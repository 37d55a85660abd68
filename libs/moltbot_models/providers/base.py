"""What an upstream protocol offers, and what it is given.

A provider is an entry point of the group `moltbot.providers`: a function `open_upstream(manifest, context)` that
returns an `Upstream` without waiting for the network. A package of its own can add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from moltbot_models.generation import (
        Delta,
        EmbeddingRequest,
        Embeddings,
        GenerationRequest,
        Scores,
        ScoringRequest,
    )
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.engines import EngineHost


BATCHES_OF = "batches_of_"
"""Before the size, in `Measured.statistics`."""


class Upstream(Protocol):
    """One model behind one protocol. Used by many tasks of one event loop at once."""

    def generate(self, request: GenerationRequest, *, stream: bool = True) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Generate text.

        Each item holds everything that came with one network read. The last delta of the last item, and no other, has a
        `finish_reason`, and `usage` where the upstream counts. `aclose` (or cancellation) stops the upstream at once.

        Args:
            request: What is asked; `model` is the name at the upstream.
            stream: Whether pieces are wanted as they come. Without, one item may hold the whole answer, which costs
                the upstream and the mesh less.

        Raises:
            InvalidArgument: The upstream refuses the request itself.
            Unavailable: The upstream cannot answer. Reason `UPSTREAM_UNAVAILABLE` if another try may succeed (overload,
                time ran out, connection lost), `UPSTREAM_ERROR` if it answers nonsense or refuses the mesh.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed texts.

        Raises:
            InvalidArgument: The upstream refuses the request itself, or the protocol has no embeddings.
            Unavailable: As for `generate`.
        """
        ...

    async def score(self, request: ScoringRequest) -> Scores:
        """Score texts for a query, or for each class of the model.

        Raises:
            InvalidArgument: The upstream refuses the request itself, or the protocol has no such scores.
            Unavailable: As for `generate`.
        """
        ...

    async def probe(self) -> None:
        """Ask cheaply whether the upstream is there.

        Raises:
            Unavailable: It is not.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; requests under way end with an error. May be called twice."""
        ...


@runtime_checkable
class Measured(Protocol):
    """An upstream whose engine counts what it does."""

    async def statistics(self) -> Mapping[str, float]:
        """The engine's counters and present state, by name.

        Names: those of `EngineStats` for text; `requests`, `batches`, `failures`, `queue_s`, `compute_s` and, for each
        size of batch, `batches_of_N` where Triton counts.

        Raises:
            Unavailable: The engine does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class UpstreamContext:
    """What a provider may use."""

    cache_dir: Path
    """For what may be made again: compiled models, sockets."""
    environ: Mapping[str, str]
    """Where `auth.key_env` is looked up."""
    engines: EngineHost
    """Engines of this process; closed by whoever made the context."""


UpstreamFactory = Callable[["Manifest", UpstreamContext], Upstream]
"""Opens the upstream of a manifest.

Raises:
    InvalidArgument: The manifest does not fit the protocol.
    FailedPrecondition: A secret or a directory that the manifest names is not there.
"""
