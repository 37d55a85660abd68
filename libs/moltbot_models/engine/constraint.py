"""Constrained decoding: only tokens that a grammar allows can be drawn.

Source: llguidance (MIT), whose derivative-based lexer and Earley parser give a step's mask in tens of microseconds;
Willard and Louf, "Efficient Guided Generation for Large Language Models" (arXiv:2307.09702), for the idea.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.deep_stack import in_deep_stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.generation import ResponseFormat

_log = logging.getLogger(__name__)

MAX_GRAMMAR_BYTES = 128 << 10
_MOST_STEPS = 2000
"""Lines or references: as deep as these the compiler recurses, in less than half of a deep stack."""
_CACHED = 64
_SAY_AGAIN_S = 60.0
_WORD_BITS = 32
_ADDED = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0, -np.inf).astype(
    np.float32
)
"""What eight bits of a mask add to their logits: nothing or minus infinity. Ten times as quick as a condition."""
JSON_OPTIONS: Any = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}
"""White space has an end: some models never stop writing it."""
_LIMITS = {
    "initial_lexer_fuel": 1_000_000,  # about 20 ms
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # about 2 kB each
    "max_grammar_size": 100_000,
    "verbose_errors": False,  # they would hold text of the answer
}


class Constraint:
    """Where one answer stands in its grammar. Used by one thread at a time: the submitter's, then the engine's.

    Attributes:
        waiting: Thoughts come first: nothing is forbidden until `begin`.
        allowed: A bit for each token that may come next, in words of 32; None if that was not found out yet.
        optional: Nobody asked for it: where it cannot go on, the answer goes on without.
        lost: It could not go on.
    """

    def __init__(self, matcher: Any, *, waiting: bool = False) -> None:
        self.matcher, self.waiting = matcher, waiting
        self.allowed: NDArray[np.int32] | None = None
        self.optional = self.lost = False

    @property
    def holds(self) -> bool:
        """Whether it forbids anything now."""
        return not (self.waiting or self.lost)

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return not self.lost and bool(self.matcher.is_stopped())

    def begin(self, tokens: Sequence[int]) -> EngineError | None:
        """Hold from here on; `tokens` of the answer have come already. Return the error if they are not allowed."""
        self.waiting = False
        try:
            for token in tokens:
                self.accept(token)
        except EngineError as error:
            return error
        return None

    def accept(self, token: int) -> None:
        """Take a token that was drawn.

        Raises:
            EngineError: `ENGINE_FAILED` if the grammar does not allow it, or has become too complex to go on.
        """
        self.allowed = None
        if self.lost or self.matcher.consume_token(token):
            return
        if self.optional:
            self.lost = True
        else:
            raise EngineError("ENGINE_FAILED", f"the answer left the form it must have: {_said(self.matcher)}")


class Grammars:
    """Compiles what answers must look like for one model. Thread-safe."""

    def __init__(self, directory: ModelDirectory, vocabulary: int) -> None:
        """Compile nothing yet.

        Args:
            directory: The model's tokenizer and end tokens.
            vocabulary: Rows of logits.
        """
        self._directory, self._vocabulary = directory, vocabulary
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._compiled: OrderedDict[tuple[str, ResponseFormat], Any] = OrderedDict()
        """Matchers at the beginning, and the errors of what cannot be compiled; by field and form."""
        self._said_s = -_SAY_AGAIN_S

    def constraint(
        self, wanted: ResponseFormat, *, field: str = "response_format", waiting: bool = False
    ) -> Constraint:
        """Return a fresh constraint. What was asked lately is not compiled again.

        Args:
            wanted: The form.
            field: Of the request, where it comes from: errors name it.
            waiting: Thoughts come first.

        Raises:
            EngineError: `INVALID_ARGUMENT` saying what is wrong with the schema, expression or grammar.
        """
        key = field, wanted
        with self._lock:
            matcher = self._compiled.get(key)
            if matcher is not None:
                self._compiled.move_to_end(key)
        if matcher is None:
            try:
                matcher = in_deep_stack(lambda: self._compile(wanted, field))
            except RuntimeError as error:
                raise EngineError("ENGINE_FAILED", f"{field}: no thread can be had to compile it: {error}") from None
            with self._lock:
                self._compiled[key] = matcher
                while len(self._compiled) > _CACHED:
                    self._compiled.popitem(last=False)
        if isinstance(matcher, EngineError):
            raise EngineError(matcher.reason, str(matcher))
        constraint = Constraint(matcher.deep_copy(), waiting=waiting)
        if not waiting:
            self.look_ahead(constraint)
            if constraint.matcher.is_error():
                said = _said(constraint.matcher)
                raise EngineError("INVALID_ARGUMENT", f"{field}: {wanted.kind} cannot be used: {said}")
        return constraint

    def of_calls(
        self, asked: ResponseFormat | None, unasked: ResponseFormat | None, *, waiting: bool = False
    ) -> Constraint | None:
        """Return a constraint for calls of tools; `None` if there is to be none.

        Args:
            asked: The form that they must have.
            unasked: One that they have instead, if a matcher can be made of it.
            waiting: Thoughts come first.

        Raises:
            EngineError: As `constraint`, for what was asked.
        """
        kept = None if asked is None else self.constraint(asked, field="tools", waiting=waiting)
        if unasked is None:
            return kept
        try:
            better = self.constraint(unasked, field="tools", waiting=waiting)
        except EngineError as error:
            if time.monotonic() - self._said_s > _SAY_AGAIN_S:
                self._said_s = time.monotonic()
                _log.warning("calls are not kept to the schemas of the mesh's tools: %s", error)
            return kept
        better.optional = asked is None
        return better

    def look_ahead(self, constraint: Constraint) -> None:
        """Find out which tokens may come next, before `mask` needs it: tens of microseconds, some milliseconds at most.

        Of a grammar that has become too complex the end alone may come, which `accept` refuses; an optional one is
        lost.
        """
        from llguidance.numpy import fill_next_token_bitmask  # noqa: PLC0415 - with the first constraint

        words = -(-self._vocabulary // _WORD_BITS)
        bits = np.zeros((1, words), np.int32)
        # One by one: threads that share these microseconds of work wait, spinning, for more than they take.
        fill_next_token_bitmask(constraint.matcher, bits)
        if constraint.optional and constraint.matcher.is_error():
            constraint.lost = True
        else:
            constraint.allowed = bits[0]

    def mask(self, logits: Sequence[NDArray[np.float32]], constraints: Sequence[Constraint]) -> None:
        """Forbid in each row [vocabulary] what its constraint does not allow, in place: minus infinity."""
        added: NDArray[np.float32] | None = None
        for row, constraint in zip(logits, constraints, strict=True):
            if constraint.allowed is None:
                self.look_ahead(constraint)
            allowed = constraint.allowed
            if allowed is None:
                continue  # lost
            if added is None:
                added = np.empty((len(allowed) * _WORD_BITS // 8, 8), np.float32)
            np.take(_ADDED, allowed.view(np.uint8), axis=0, out=added, mode="clip")
            np.add(row, added.reshape(-1)[: row.size], out=row)

    def _compile(self, wanted: ResponseFormat, field: str) -> Any:
        """A matcher, or the error that says why there is none: both are remembered."""
        import llguidance  # noqa: PLC0415 - most answers are free

        try:
            _check_size(wanted)
            matcher = llguidance.LLMatcher(
                self._vocabulary_of_grammars(),
                _grammar(wanted),
                log_level=0,
                limits=llguidance.LLParserLimits(**_LIMITS),  # pyright: ignore[reportArgumentType]
            )
        except EngineError as error:
            return EngineError(error.reason, f"{field}: {error}")
        if matcher.is_error():
            return EngineError("INVALID_ARGUMENT", f"{field}: {wanted.kind} cannot be used: {_said(matcher)}")
        return matcher

    def _vocabulary_of_grammars(self) -> Any:
        from llguidance import LLTokenizer  # noqa: PLC0415 - see above

        with self._lock:
            if self._tokenizer is None:
                if not self._directory.end_tokens:
                    raise EngineError("INVALID_ARGUMENT", "this model has no end token")
                source = self._directory.tokenizer.to_str()
                ends = sorted(self._directory.end_tokens)
                try:
                    self._tokenizer = LLTokenizer(source, n_vocab=self._vocabulary, eos_token=ends)
                except ValueError as error:
                    said = str(error).partition("\n")[0][:300]
                    raise EngineError("INVALID_ARGUMENT", f"no grammar fits this model's tokenizer: {said}") from error
        return self._tokenizer


def _check_size(wanted: ResponseFormat) -> None:
    text = wanted.text
    if len(text) > MAX_GRAMMAR_BYTES:
        raise EngineError("INVALID_ARGUMENT", f"more than {MAX_GRAMMAR_BYTES >> 10} KiB; make it smaller")
    # A reference may be written with escapes.
    steps = {"references": 0 if wanted.kind == "regex" else text.count("$ref") + text.count("\\u00")}
    steps["lines"] = text.count("\n") if wanted.kind == "grammar" else 0
    for kind, count in steps.items():
        if count > _MOST_STEPS:
            raise EngineError("INVALID_ARGUMENT", f"more than {_MOST_STEPS} {kind}; make it smaller")


def _grammar(wanted: ResponseFormat) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415 - see above

    try:
        match wanted.kind:
            case "json_object":
                return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=JSON_OPTIONS)
            case "json_schema":
                schema = json.loads(wanted.text)
                if not isinstance(schema, dict):
                    raise EngineError("INVALID_ARGUMENT", "the schema must be a JSON object")
                return LLMatcher.grammar_from_json_schema(wanted.text, overrides=JSON_OPTIONS)
            case "regex":
                return LLMatcher.grammar_from_regex(wanted.text)
            case _:
                return LLMatcher.grammar_from_lark(wanted.text)
    except (ValueError, RecursionError) as error:
        raise EngineError("INVALID_ARGUMENT", f"not JSON: {error}") from error


def _said(matcher: Any) -> str:
    """The first line of the matcher's error; the rest shows its state."""
    return str(matcher.get_error()).strip().partition("\n")[0][:300] or "no reason given"
