"""Answers in the forms that home-made and older model servers use, read piece by piece.

| form | known from |
|---|---|
| `{"choices": [{"text" or "message" or "delta": …}]}` | the OpenAI API |
| `{"text": "…"}`, or `output`, `generated_text`, `response`, `completion`, `content`, `delta` | home-made, llama.cpp |
| `{"response" or "message": …, "done": true}` | Ollama |
| `[{"generated_text": "…"}]`, `{"token": {"text": "…"}, "generated_text": null, "details": {…}}` | TGI |

A piece is what came since the one before it, never the text from the start. A stream ends with a piece that says so
(`finish_reason`, `done`, `stop`, `[DONE]`) or, if none of its pieces could be the OpenAI API's, with its last byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from moltbot_models.generation import Delta, Usage
from moltbot_models.providers.openai_answer import ChunkReader, finish_reason_of
from moltbot_models.providers.upstream_errors import error_in_band, garbage

if TYPE_CHECKING:
    from moltbot_models.generation import FinishReason

_TEXT_KEYS = ("delta", "text", "output", "generated_text", "response", "completion", "content")
Tree = dict[str, Any]


class LooseReader:
    """Gathers the pieces of one answer.

    Args:
        model: The manifest's id, for errors.
    """

    __slots__ = ("_any", "_chunks", "_finish", "_model", "_usage", "ended")

    def __init__(self, model: str) -> None:
        self._model = model
        self._chunks: ChunkReader | None = None
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None
        self._any = False
        self.ended = False
        """Whether a piece said that it is the last."""

    def take(self, piece: bytes) -> tuple[Delta, ...]:
        """What a piece says: one delta or none.

        Raises:
            MoltbotError: It is an error object, or in no known form.
        """
        if piece.strip() == b"[DONE]":
            self.ended = True
            return ()
        try:
            tree: Any = msgspec.json.decode(piece)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise garbage(self._model, f"not JSON ({type(error).__name__})") from None
        if isinstance(tree, list) and len(cast("list[Any]", tree)) == 1:
            tree = tree[0]
        if not isinstance(tree, dict):
            raise garbage(self._model, "not a JSON object")
        if "choices" in tree:
            self._chunks = self._chunks or ChunkReader(self._model)
            return self._chunks.deltas((piece,))
        return self._piece(cast("Tree", tree))

    def last(self) -> Delta:
        """The last delta.

        Raises:
            Unavailable: Nothing came, or the OpenAI API's stream ended too early.
        """
        if self._chunks is not None:
            return self._chunks.last()
        if not self._any:
            raise garbage(self._model, "it is empty")
        return Delta(finish_reason=self._finish or "stop", usage=self._usage)

    def _piece(self, tree: Tree) -> tuple[Delta, ...]:
        if tree.get("error"):
            raise error_in_band(self._model, tree["error"])
        text = _text(tree)
        reason = _reason(tree)
        if reason is not None:
            self._finish, self.ended = finish_reason_of(reason), True
        usage = _usage(tree)
        if usage is not None:
            self._usage = usage
        if text is None and reason is None and usage is None:
            raise garbage(self._model, f"no text in it; one of {', '.join(_TEXT_KEYS)} is expected")
        self._any = True
        return (Delta(text),) if text else ()


def _text(tree: Tree) -> str | None:
    token = tree.get("token")
    if isinstance(token, dict):
        # TGI: the last piece repeats the whole text beside its token; a special token has no text to show.
        piece = cast("Tree", token)
        return "" if piece.get("special") else str(piece.get("text") or "")
    message = tree.get("message")
    if isinstance(message, dict):
        return str(cast("Tree", message).get("content") or "")
    for key in _TEXT_KEYS:
        value = tree.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and len(cast("list[Any]", value)) == 1 and isinstance(value[0], str):
            return value[0]
    return None


def _reason(tree: Tree) -> str | None:
    details = tree.get("details")
    found = tree.get("finish_reason") or tree.get("done_reason")
    if not found and isinstance(details, dict):
        found = cast("Tree", details).get("finish_reason")
    if isinstance(found, str):
        return found
    return "stop" if tree.get("done") is True or tree.get("stop") is True else None


def _usage(tree: Tree) -> Usage | None:
    given = tree.get("usage")
    counts = cast("Tree", given) if isinstance(given, dict) else tree
    answered = counts.get("completion_tokens", counts.get("eval_count", counts.get("tokens_predicted")))
    asked = counts.get("prompt_tokens", counts.get("prompt_eval_count", counts.get("tokens_evaluated")))
    if isinstance(answered, int) and isinstance(asked, int):
        return Usage(asked, answered)
    return None
