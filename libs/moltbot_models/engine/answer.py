"""From the tokens of one sequence to the deltas its caller gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_models.engine.detokenize import Detokenizer, StopStrings
from moltbot_models.engine.reasoning import CLOSE, OPEN, ThinkTags
from moltbot_models.generation import Delta

if TYPE_CHECKING:
    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.engine.prompting import Prompt
    from moltbot_models.engine.tool_dialects import ToolCallParser
    from moltbot_models.generation import FinishReason, GenerationRequest, TokenLogprob, ToolCallDelta, Usage


class Answer:
    """Detokenises, watches for stop strings, finds thoughts and tool calls."""

    def __init__(self, directory: ModelDirectory, request: GenerationRequest, prompt: Prompt) -> None:
        shown: frozenset[int] = frozenset()
        self._calls: ToolCallParser | None = None
        self._pieces: list[ToolCallDelta] = []
        if prompt.dialect is not None:
            # Some tokenizers mark the tags as special; here they are read.
            tags = (directory.tokenizer.token_to_id(tag) for tag in prompt.dialect.tags)
            shown = frozenset(tag for tag in tags if tag is not None)
            self._calls = prompt.dialect.parser()
            _, self._pieces = self._calls.push(prompt.opening)
        self._thoughts: ThinkTags | None = None
        self._reasoning = ""
        if prompt.thoughts != "none" and request.response_format is None:
            tags = (directory.tokenizer.token_to_id(tag) for tag in (OPEN, CLOSE))
            shown |= frozenset(tag for tag in tags if tag is not None)
            self._thoughts = ThinkTags(inside=prompt.thoughts == "opened")
        self._detokenizer = Detokenizer(directory.vocabulary, shown)
        self._stops = StopStrings(request.sampling.stop)
        # Nothing looks for calls, thoughts or stop strings: the text goes out as it comes.
        self._unparsed = self._calls is None and self._thoughts is None and not self._stops.any

    @property
    def stoppable(self) -> bool:
        """Whether its text may end it."""
        return self._stops.any

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.stopped

    @property
    def thinking(self) -> bool:
        """Whether it still thinks, or may be about to."""
        return self._thoughts is not None and self._thoughts.begun is None

    @property
    def begun(self) -> str:
        """What had come of the answer itself when its thoughts were over; to be asked at the step that ended them."""
        return "" if self._thoughts is None else (self._thoughts.begun or "") + self._stops.held

    def push(self, token: int, logprob: TokenLogprob | None) -> Delta | None:
        """Return what this token lets the caller see, None if that is nothing yet."""
        text = self._detokenizer.push(token)
        logprobs = () if logprob is None else (logprob,)
        if self._unparsed:
            return Delta(text, logprobs=logprobs) if text or logprobs else None
        text = self._parse(self._stops.push(text))
        pieces = self._taken()
        reasoning = self._thought()
        if not (text or pieces or logprobs or reasoning):
            return None
        return Delta(text, pieces, logprobs, reasoning=reasoning)

    def finish(self, last: Delta | None, reason: FinishReason, usage: Usage) -> Delta:
        """Return the closing delta, with all that was held back.

        Args:
            last: What `push` gave for the final token, so that one step makes one delta.
            reason: Why the answer ends.
            usage: Tokens counted.
        """
        text = ""
        if not self._stops.stopped:
            text = self._parse(self._stops.push(self._detokenizer.finish()))
            text += self._parse(self._stops.finish())
        if self._thoughts is not None:
            thoughts, rest = self._thoughts.finish()
            self._reasoning += thoughts
            text += self._called(rest)
        if self._calls is not None:
            rest, pieces = self._calls.finish()
            text += rest
            self._pieces += pieces
            if self._calls.calls and reason == "stop":
                reason = "tool_calls"
        last = last or Delta()
        reasoning = last.reasoning + self._thought()
        return Delta(last.text + text, (*last.tool_calls, *self._taken()), last.logprobs, reason, usage, reasoning)

    def _parse(self, text: str) -> str:
        if self._thoughts is not None and text:
            thoughts, text = self._thoughts.push(text)
            self._reasoning += thoughts
        return self._called(text)

    def _thought(self) -> str:
        taken, self._reasoning = self._reasoning, ""
        return taken

    def _called(self, text: str) -> str:
        if self._calls is None or not text:
            return text
        plain, pieces = self._calls.push(text)
        self._pieces += pieces
        return plain

    def _taken(self) -> tuple[ToolCallDelta, ...]:
        taken, self._pieces = tuple(self._pieces), []
        return taken
