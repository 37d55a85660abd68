"""Answers as the OpenAI API gives them: whole ones, and the chunks of streams gathered to deltas.

Source: OpenAI API reference, the chat completion (chunk) object, the completion object, the embedding object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from moltbot_models.generation import Delta, Embeddings, Scores, TokenLogprob, ToolCallDelta, Usage
from moltbot_models.providers.upstream_errors import error_in_band, garbage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.generation import FinishReason

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "abort": "cancelled",
    "cancelled": "cancelled",
}


def finish_reason_of(name: str) -> FinishReason:
    """The mesh's word for an upstream's; `stop` for the many words that mean it."""
    return _FINISH.get(name, "stop")


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Piece(msgspec.Struct, gc=False):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    # vLLM, SGLang and DeepSeek write the first, newer vLLM and others the second.
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def thoughts(self) -> str:
        return self.reasoning_content or self.reasoning or ""


class _TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Logprob(_TopLogprob, gc=False):
    top_logprobs: list[_TopLogprob] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Logprob] | None = None
    # The completions route has its own form.
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Piece | None = None
    message: _Piece | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class UsageObject(msgspec.Struct, gc=False):
    """Tokens as an upstream counts them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    def usage(self) -> Usage:
        """The same for the mesh."""
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0
        return Usage(self.prompt_tokens or 0, self.completion_tokens or 0, cached or 0)


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: UsageObject | None = None
    error: Any = None


class _Embedding(msgspec.Struct, gc=False):
    embedding: tuple[float, ...]
    index: int


class _EmbeddingList(msgspec.Struct, gc=False):
    data: list[_Embedding]
    usage: UsageObject = msgspec.field(default_factory=UsageObject)


class _Ranked(msgspec.Struct, gc=False):
    index: int
    relevance_score: float


class _RankingUsage(msgspec.Struct, gc=False):
    total_tokens: int = 0


class _Ranking(msgspec.Struct, gc=False):
    results: list[_Ranked]
    usage: _RankingUsage | None = None


MAX_EMBEDDINGS_BYTES = 64 << 20
"""Of an answer with vectors: 2,048 of 1,536 numbers in JSON."""
MAX_TOOL_CALLS = 128
"""Of one answer: each is run, at once with the others."""
_CHUNK = msgspec.json.Decoder(_Chunk)
_EMBEDDINGS = msgspec.json.Decoder(_EmbeddingList)
_RANKING = msgspec.json.Decoder(_Ranking)


class ChunkReader:
    """Gathers the chunks of one stream.

    Args:
        model: The manifest's id, for errors.
    """

    __slots__ = ("_finish", "_model", "_usage", "done")

    def __init__(self, model: str) -> None:
        self._model = model
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None
        self.done = False
        """`[DONE]` was read."""

    def deltas(self, events: Sequence[bytes | str]) -> tuple[Delta, ...]:
        """What these events say, as one delta or none. The end is held back for `last`.

        Raises:
            MoltbotError: An event is an error, or not a chunk.
        """
        if len(events) == 1 and events[0] != b"[DONE]":
            # The common case of a stream whose tokens come one by one, without the lists.
            choice = self._choice(events[0])
            if choice is None:
                return ()
            piece = choice.delta
            if piece is not None and piece.tool_calls is None and choice.logprobs is None:
                thoughts = piece.thoughts
                return (Delta(piece.content or "", reasoning=thoughts),) if piece.content or thoughts else ()
            return self._gathered([choice])
        choices: list[_Choice] = []
        for event in events:
            if event == b"[DONE]":
                self.done = True
                break
            choice = self._choice(event)
            if choice is not None:
                choices.append(choice)
        return self._gathered(choices)

    def last(self) -> Delta:
        """The last delta.

        Raises:
            Unavailable: The stream ended without a finish reason.
        """
        if self._finish is None:
            raise garbage(self._model, "it ended before the model had finished")
        return Delta(finish_reason=self._finish, usage=self._usage)

    def _choice(self, event: bytes | str) -> _Choice | None:
        try:
            chunk = _CHUNK.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise garbage(self._model, f"not in the form of the OpenAI API ({type(error).__name__})") from None
        if chunk.error is not None:
            raise error_in_band(self._model, chunk.error)
        if chunk.usage is not None:
            self._usage = chunk.usage.usage()
        if not chunk.choices or chunk.choices[0].index != 0:
            return None
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._finish = finish_reason_of(choice.finish_reason)
        return choice

    def _gathered(self, choices: Sequence[_Choice]) -> tuple[Delta, ...]:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCallDelta] = []
        logprobs: list[TokenLogprob] = []
        for choice in choices:
            piece = choice.delta or choice.message
            if piece is not None:
                if piece.content:
                    texts.append(piece.content)
                thoughts.append(piece.thoughts)
                if piece.tool_calls:
                    calls += _calls(self._model, piece.tool_calls)
            elif choice.text:
                texts.append(choice.text)
            if choice.logprobs is not None:
                logprobs += _logprobs(choice.logprobs)
        reasoning = "".join(thoughts)
        if not (texts or calls or logprobs or reasoning):
            return ()
        return (Delta("".join(texts), tuple(calls), tuple(logprobs), reasoning=reasoning),)


def whole_answer(model: str, body: bytes) -> Delta:
    """A whole answer as its only delta.

    Raises:
        MoltbotError: It is an error object, or not an OpenAI answer.
    """
    reader = ChunkReader(model)
    deltas = reader.deltas((body,))
    end = reader.last()
    if not deltas:
        return end
    first = deltas[0]
    return Delta(first.text, first.tool_calls, first.logprobs, end.finish_reason, end.usage, first.reasoning)


def embeddings(model: str, body: bytes, count: int) -> Embeddings:
    """The vectors of an answer, in the order of the inputs.

    Args:
        model: The manifest's id, for errors.
        body: The answer.
        count: Of inputs.

    Raises:
        Unavailable: The answer does not hold one vector for each input, all of one length.
    """
    try:
        found = _EMBEDDINGS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise garbage(model, f"not a list of embeddings ({type(error).__name__})") from None
    rows = sorted(found.data, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(count)) or len({len(row.embedding) for row in rows}) > 1:
        raise garbage(model, f"it does not hold one vector for each of {count} inputs")
    return Embeddings(tuple(row.embedding for row in rows), found.usage.usage())


def ranking(model: str, body: bytes, count: int) -> Scores:
    """The scores of an answer, in the order of the documents; arguments and errors as for `embeddings`."""
    try:
        found = _RANKING.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise garbage(model, f"not a ranking ({type(error).__name__})") from None
    rows = sorted(found.results, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(count)):
        raise garbage(model, f"it does not hold one score for each of {count} documents")
    tokens = found.usage.total_tokens if found.usage else 0
    return Scores(tuple((row.relevance_score,) for row in rows), Usage(max(0, tokens)))


def _calls(model: str, calls: Sequence[_ToolCall]) -> list[ToolCallDelta]:
    found: list[ToolCallDelta] = []
    for place, call in enumerate(calls):
        function = call.function or _Function()
        index = place if call.index is None else call.index
        if not 0 <= index < MAX_TOOL_CALLS:
            raise garbage(model, f"it asks for more than {MAX_TOOL_CALLS} tool calls")
        found.append(ToolCallDelta(index, call.id or "", function.name or "", function.arguments or ""))
    return found


def _logprobs(logprobs: _Logprobs) -> list[TokenLogprob]:
    if logprobs.content is not None:
        return [_logprob(entry) for entry in logprobs.content]
    tops = logprobs.top_logprobs or []
    return [
        TokenLogprob(
            token,
            value,
            token.encode(),
            tuple(TokenLogprob(name, odds, name.encode()) for name, odds in (tops[i] or {}).items())
            if i < len(tops)
            else (),
        )
        for i, (token, value) in enumerate(zip(logprobs.tokens or (), logprobs.token_logprobs or (), strict=False))
        if value is not None
    ]


def _logprob(entry: _TopLogprob) -> TokenLogprob:
    raw = entry.token.encode() if entry.bytes is None else bytes(value & 0xFF for value in entry.bytes)
    tops = entry.top_logprobs if isinstance(entry, _Logprob) else None
    return TokenLogprob(entry.token, entry.logprob, raw, tuple(_logprob(top) for top in tops or ()))
