"""Evaluates a model of this recipe on the text engine: `python recipes/tiny_model/evaluate.py DIR --count 100`.

It asks as the gateway does, with messages and tools as of the mesh, so template, engine, parser of calls and the grammar
that keeps them to their schemas are part of the table: a third of the settings describe `sql_lookup` without its tables,
and their schemas do not list them either. With `--free` calls are what the model writes. Runs in the project's
environment, needs no torch.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "libs"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.aio import merged
from moltbot_models.generation import Delta, GenerationRequest, Message, Sampling, ToolCall, ToolSpec
from tiny_model import cases, conversation, validation
from tiny_model.conversation import Said, Setting

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_TOKENS, _AT_ONCE = 160, 64
_STORY, _STORIES, _STORY_TOKENS = "Tell me a story about the sea.", 5, 200


class Model:
    """A model on the text engine, as the daemon runs it."""

    def __init__(self, directory: Path, threads: int, weights: str, *, free: bool = False) -> None:
        self._free = free
        self._engine = TextEngine.load(directory, EngineConfig(threads=threads, weights=weights))  # type: ignore[arg-type]

    def answers(self, asked: Iterable[tuple[Setting, list[Said]]], sampling: Sampling) -> list[Delta]:
        """Whole answers in the order asked, computed in one batch that changes as answers end.

        Raises:
            EngineError: The engine refused a request or failed on its way.
        """
        room = threading.Semaphore(_AT_ONCE)
        pieces: list[list[Delta]] = []
        failures: list[Exception] = []

        def on_error(error: Exception) -> None:
            failures.append(error)
            room.release()

        def ask(setting: Setting, said: list[Said]) -> None:
            mine: list[Delta] = []
            pieces.append(mine)

            def on_delta(delta: Delta) -> None:
                mine.append(delta)
                if delta.finish_reason:
                    room.release()

            room.acquire()
            self._engine.submit(request(setting, said, sampling, mesh=not self._free), on_delta, on_error=on_error)

        for setting, said in asked:
            ask(setting, said)
        for _ in range(_AT_ONCE):
            room.acquire()
        if failures:
            raise failures[0]
        return [merged(mine) for mine in pieces]

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


def request(setting: Setting, said: list[Said], sampling: Sampling, *, mesh: bool = True) -> GenerationRequest:
    """A conversation as the gateway hands it to the engine."""
    messages = [Message("system", setting.system)] if setting.system else []
    for one in said:
        calls = ()
        if one.call:
            calls = (ToolCall("call_0", one.call[0], json.dumps(one.call[1], ensure_ascii=False)),)
        messages.append(Message(one.role, one.text, tool_calls=calls))  # type: ignore[arg-type]
    tools = tuple(
        ToolSpec(function["name"], function["description"], json.dumps(function["parameters"]), mesh=mesh)
        for function in (tool["function"] for tool in setting.tools)
    )
    return GenerationRequest("tiny", messages=tuple(messages), tools=tools, sampling=sampling)


def written(answer: Delta) -> str:
    """An answer as the cases write it: calls that do not parse count as the text that they are."""
    text = answer.text
    for call in answer.tool_calls:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            return f"{text}<tool_call>{call.name} {call.arguments}"
        text += ("\n" if text else "") + conversation.call_text(call.name, arguments)
    return text


def bits(answers: list[Delta]) -> float:
    """Entropy of a token in bits: the mean surprise of what was sampled at temperature 1."""
    surprises = [-token.logprob for answer in answers for token in answer.logprobs]
    return sum(surprises) / len(surprises) / 0.6931471805599453


def main() -> None:
    """Print a table: skill by split, share of right answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=100, help="cases of each skill and split")
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", default="u8", choices=["u8", "i8", "f32", "bf16"])
    parser.add_argument("--failures", type=int, default=0, help="failures to print for each skill and split")
    parser.add_argument("--free", action="store_true", help="do not keep calls to the tools' schemas")
    parser.add_argument("--demo", action="store_true", help="only the prompts of the documentation")
    parser.add_argument("--validation", action="store_true", help="only the cases by which a checkpoint is chosen")
    arguments = parser.parse_args()
    model = Model(arguments.directory, arguments.threads, arguments.weights, free=arguments.free)
    rng = random.Random(arguments.seed)
    todo = list(validation.cases(rng, arguments.count) if arguments.validation else cases.demo())
    if not arguments.demo and not arguments.validation:
        todo += cases.cases(rng, arguments.count)
    right: collections.Counter[tuple[str, str]] = collections.Counter()
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    answers = model.answers(
        ((case.setting, case.said) for case in todo), Sampling(max_tokens=_MOST_TOKENS, temperature=0.0)
    )
    for case, answer in zip(todo, map(written, answers), strict=True):
        key = (case.skill, case.split)
        total[key] += 1
        right[key] += case.passed(answer)
        if not case.passed(answer) and total[key] - right[key] <= arguments.failures:
            wanted = case.exact or case.contains
            print(f"{key}: {case.said[-1].text!r}\n  got    {answer!r}\n  wanted {wanted!r}")
    splits = [validation.SPLIT] if arguments.validation else [*cases.SPLITS, "demo"]
    print("| skill | " + " | ".join(splits) + " |\n|---" + "|---" * len(splits) + "|")
    for skill in dict.fromkeys(skill for skill, _ in sorted(total)):
        cells = [f"{right[skill, split]}/{total[skill, split]}" if total[skill, split] else "" for split in splits]
        print(f"| {skill} | " + " | ".join(cells) + " |")
    for group, least in (("call", 0.95), ("recall", 0.90)):
        keys = [key for key in total if key[0].split(" ")[0] == group]
        for split in splits:
            some = [key for key in keys if key[1] == split]
            if share := sum(total[key] for key in some):
                print(f"{group}, {split}: {sum(right[key] for key in some) / share:.1%} (aimed at {least:.0%})")
    told: list[Delta] = []
    for seed in range(_STORIES):
        sampling = Sampling(max_tokens=_STORY_TOKENS, temperature=1.0, seed=seed, logprobs=True)
        told += model.answers([(Setting(""), [Said("user", _STORY)])], sampling)
    model.close()
    print(f"free text at temperature 1: {bits(told):.1f} bits a token\n  {told[0].text}")


if __name__ == "__main__":
    main()
