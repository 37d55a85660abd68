"""The text engine as a decoupled Triton model; runs inside Triton's Python backend.

The engine's thread owns the generation. It leaves deltas here; one sender thread takes them about a hundred times a
second and sends what has gathered, because a message costs Triton as much as several tokens cost the engine.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - exists inside Triton alone

from moltbot_models.engine import EngineError, TextEngine
from moltbot_models.engine.aio import merged
from moltbot_models.engine.options import config_of
from moltbot_models.vision.picture import Picture
from moltbot_models.wire import STATISTICS, decode_request, encode_deltas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moltbot_models.engine import GenerationHandle
    from moltbot_models.generation import Delta

_log = logging.getLogger(__name__)
_GATHER_S = 0.01
"""Between two messages of one answer."""
_CANCEL_POLL_S = 0.1
"""Between two looks for cancelled requests: each asks Triton's process about each stream, and waits for its answer."""


@dataclass(slots=True, eq=False)
class _Stream:
    sender: Any
    pieces: bool
    """Whether deltas are sent as they come, or all at the end."""
    arrived: list[Delta] = field(default_factory=list["Delta"])
    error: EngineError | None = None
    ended: bool = False
    handle: GenerationHandle | None = None


class TextBackend:
    """Queues requests at the engine and streams their answers.

    Args:
        parameters: Of the model's configuration: `path` and the fields of `EngineConfig`.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._engine = TextEngine.load(Path(parameters["path"]), config_of(parameters))
        self._changed = threading.Condition()
        self._streams: list[_Stream] = []
        self._closing = False
        self._look_at_s = 0.0
        self._thread = threading.Thread(target=self._send_all, name="sender", daemon=True)
        self._thread.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to answer; returns before the answers do."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                data = pb_utils.get_input_tensor_by_name(request, "REQUEST").as_numpy().reshape(-1)[0]
                if bytes(data) == STATISTICS:
                    self._count(sender)
                else:
                    self._begin(sender, bytes(data), _pictures(request))
            except EngineError as error:
                _refuse(sender, error)
            except (ValueError, IndexError) as error:
                _refuse(sender, EngineError("INVALID_ARGUMENT", f"REQUEST cannot be read: {type(error).__name__}"))

    def close(self) -> None:
        """End every stream and stop."""
        self._engine.close()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _begin(self, sender: Any, data: bytes, pictures: tuple[Picture, ...] | None) -> None:
        request, pieces = decode_request(data)
        stream = _Stream(sender, pieces)

        def put(delta: Delta) -> None:
            with self._changed:
                stream.arrived.append(delta)
                stream.ended = stream.ended or delta.finish_reason is not None
                self._changed.notify()

        def fail(error: EngineError) -> None:
            with self._changed:
                stream.error, stream.ended = error, True
                self._changed.notify()

        stream.handle = self._engine.submit(request, put, on_error=fail, pictures=pictures)
        with self._changed:
            self._streams.append(stream)
            self._changed.notify()

    def _count(self, sender: Any) -> None:
        said = json.dumps(asdict(self._engine.stats())).encode()
        tensor = pb_utils.Tensor("DELTAS", np.array([said], np.object_))
        sender.send(pb_utils.InferenceResponse([tensor]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send_all(self) -> None:
        while self._send_once():
            time.sleep(_GATHER_S)

    def _send_once(self) -> bool:
        # A method of its own, so that no variable keeps a sent answer while the loop sleeps: Triton cannot unload a
        # model as long as one of its senders lives.
        with self._changed:
            # Times out, while something is under way, to look for cancelled requests.
            self._changed.wait_for(self._something_to_send, _CANCEL_POLL_S if self._streams else None)
            if self._closing and not self._streams:
                return False
            taken = [self._take(stream) for stream in self._streams]
            self._streams = [stream for stream in self._streams if not stream.ended]
        now_s = time.monotonic()
        look = now_s >= self._look_at_s
        if look:
            self._look_at_s = now_s + _CANCEL_POLL_S
        for stream, deltas, ended in taken:
            try:
                _send(stream, deltas, ended=ended)
                gone = look and not ended and stream.sender.is_cancelled()
            except Exception:  # noqa: BLE001 - one answer that cannot be sent must not silence the others
                _log.exception("an answer could not be sent; its request is cancelled")
                gone = True
            if gone and stream.handle is not None:
                stream.handle.cancel()
            if ended:
                # The handle leads back to the stream: without this the sender would live until the collector comes.
                stream.handle = stream.sender = None
        return True

    def _something_to_send(self) -> bool:
        return self._closing or any(stream.ended or (stream.arrived and stream.pieces) for stream in self._streams)

    @staticmethod
    def _take(stream: _Stream) -> tuple[_Stream, list[Delta], bool]:
        if not (stream.pieces or stream.ended):
            return stream, [], False
        deltas, stream.arrived = stream.arrived, []
        return stream, deltas, stream.ended


def _pictures(request: Any) -> tuple[Picture, ...] | None:
    """What the vision model before this one made of the images; None if there is no such model."""
    rows = pb_utils.get_input_tensor_by_name(request, "ROWS")
    if rows is None:
        return None
    digests = pb_utils.get_input_tensor_by_name(request, "DIGESTS").as_numpy()
    # The tensors' memory is the request's, which ends before the answer does.
    pairs = zip(digests, rows.as_numpy().copy(), strict=True)
    return tuple(Picture(digest.tobytes(), one) for digest, one in pairs)


def _send(stream: _Stream, deltas: list[Delta], *, ended: bool) -> None:
    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if ended else 0
    if stream.error is not None:
        _refuse(stream.sender, stream.error)
    elif deltas:
        tensor = pb_utils.Tensor("DELTAS", np.array([encode_deltas([merged(deltas)])], np.object_))
        stream.sender.send(pb_utils.InferenceResponse([tensor]), flags=flags)


def _refuse(sender: Any, error: EngineError) -> None:
    failure = pb_utils.TritonError(f"{error.reason}: {error}")
    sender.send(pb_utils.InferenceResponse(error=failure), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
