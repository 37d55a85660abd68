"""Text engines that stand still until a test has done what must come first, however fast or slow the machine is."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from moltbot_models.generation import GenerationRequest, Sampling

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from moltbot_models.engine import Candidates, SamplingContext, TextEngine

_WAIT_S = 30.0


@contextlib.contextmanager
def held(engine: TextEngine) -> Generator[None]:
    """Let an engine compute nothing while the context is open: what is submitted meanwhile begins together.

    It has computed a token of its own before, which its counters tell. Nothing may be waited for in the context.
    """
    stands, go = threading.Event(), threading.Event()

    def stand(_: object) -> None:
        stands.set()
        go.wait()

    request = GenerationRequest("m", prompt="x", sampling=Sampling(max_tokens=1, ignore_eos=True))
    try:
        engine.submit(request, stand, on_error=stand)
        assert stands.wait(_WAIT_S), "the engine does not reach the request that holds it"
        yield
    finally:
        go.set()


class Halts:
    """A hook that stops its engine after a few tokens until `go` is set: none of its longer requests ends before.

    Attributes:
        reached: Set when the engine stands. The few tokens were delivered.
        go: To be set by the test; a test that fails before holds the engine for half a minute at most.
    """

    TOKENS = 3

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:  # noqa: ARG002
        """Stand still once a request has its few tokens."""
        if max(context.answered for context in contexts) >= self.TOKENS:
            self.reached.set()
            self.go.wait(_WAIT_S)

    def choose(self, candidates: Candidates, contexts: Sequence[SamplingContext]) -> Sequence[int | None]:  # noqa: ARG002
        """Leave the choice to the engine."""
        return [None] * len(contexts)
