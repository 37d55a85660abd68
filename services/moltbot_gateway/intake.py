"""Takes requests in: commits to what came, reads it, notes its media; off the event loop where it is large.

Ten MiB of base64 take some 60 ms to parse, decode and hash, in which no other request would move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from moltbot_gateway.media_notes import MediaNote, media_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moltbot_gateway.exchange import Exchange
    from moltbot_gateway.recorder import Recorder
    from moltbot_mesh.threads import Threads
    from moltbot_models.generation import Media, Message

P = ParamSpec("P")
T = TypeVar("T")

_LARGE_BYTES = 256 << 10
"""Beyond it a thread is worth its switch, about 0.1 ms."""


class Intake:
    """Takes requests in.

    Args:
        recorder: Commits.
        threads: For what is large.
    """

    def __init__(self, recorder: Recorder, threads: Threads) -> None:
        self._recorder = recorder
        self._threads = threads

    async def commit(self, exchange: Exchange, data: bytes, end_user: Callable[[bytes], str | None]) -> None:
        """Commit to a request as it came, and keep it if it can be told whom it is about.

        Args:
            exchange: Its record.
            data: The request.
            end_user: Says whom it is about, empty for the key that makes it. None: nobody could find it to destroy it,
                so that only the commitment is kept.

        Raises:
            ResourceExhausted: Too many large requests wait to be read.
        """
        await self.read(len(data), self._commit, exchange, data, end_user)

    def _commit(self, exchange: Exchange, data: bytes, end_user: Callable[[bytes], str | None]) -> None:
        if self._recorder.keeps_bodies:
            found = end_user(data)
            if found is not None:
                exchange.end_user, exchange.input = found, data
        exchange.input_digest = self._recorder.commitment(exchange, data)

    async def read(self, size_bytes: int, reader: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a reader makes of so many bytes.

        Raises:
            MoltbotError: What the reader raises.
            ResourceExhausted: Too many large requests wait to be read.
        """
        if size_bytes < _LARGE_BYTES:
            return reader(*args, **kwargs)
        return await self._threads.run(reader, *args, **kwargs)

    async def note(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        """Note the media of a conversation for the record: types, sizes and commitments, never the bytes."""
        media = media_of(messages)
        if media:
            size_bytes = sum(len(one.data) for one in media)
            exchange.media = await self.read(size_bytes, self._notes, exchange, media)

    def _notes(self, exchange: Exchange, media: Sequence[Media]) -> tuple[MediaNote, ...]:
        commitment = self._recorder.commitment
        return tuple(MediaNote(one.media_type, len(one.data), commitment(exchange, one.data)) for one in media)
