"""Evaluates a model of this recipe on the text engine: `python recipes/tiny_vision/evaluate.py DIR --count 100`.

It asks as a client does, with messages and PNG files, so template, preprocessing and engine are part of the table. Runs in
the project's environment, needs no torch.
"""

from __future__ import annotations

import argparse
import collections
import io
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "libs"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.generation import Message
from moltbot_testkit.conversations import ask, image, message
from tiny_vision import pictures, questions

if TYPE_CHECKING:
    from tiny_vision.pictures import Scene
    from tiny_vision.questions import Asked

_SEED = 1_000_003


def shown(scene: Scene | None, asked: Asked, rng: random.Random) -> Message:
    """A question as the gateway hands it to the engine."""
    if scene is None:
        return Message("user", asked.question)
    file = io.BytesIO()
    pictures.draw(rng, scene).save(file, "PNG")
    return message("user", image(file.getvalue()), asked.question)


def answers(engine: TextEngine, asked: list[tuple[Scene | None, Asked]], rng: random.Random) -> list[str]:
    """Whole answers in the order asked, computed together."""
    pending = [ask(engine, [shown(scene, question, rng)], max_tokens=64, temperature=0.0) for scene, question in asked]
    return [answer.wait().text for answer in pending]


def cases(rng: random.Random, count: int, *, unseen: bool) -> list[tuple[Scene | None, Asked]]:
    """Questions of each skill, `count` of each, about combinations that training has, or has not, seen."""
    kinds = pictures.kinds(unseen=unseen)
    found: dict[str, list[tuple[Scene | None, Asked]]] = collections.defaultdict(list)
    skills = ("shape", "colour", "number", "description", "side", "colour of which")
    while any(len(found[skill]) < count for skill in skills):
        drawn = rng.random()
        if drawn < 0.3:
            scene = pictures.single(rng, rng.choice(kinds))
        elif drawn < 0.6:
            scene = pictures.several(rng, rng.choice(kinds), rng.randint(1, 4))
        else:
            scene = pictures.pair(rng, *rng.sample(kinds, 2))
        (asked,) = questions.about(rng, scene, 1)
        if len(found[asked.skill]) < count:
            found[asked.skill].append((scene, asked))
    if not unseen:
        while any(len(found[skill]) < count for skill in ("no picture", "talk")):
            asked = questions.without_picture(rng)
            if len(found[asked.skill]) < count:
                found[asked.skill].append((None, asked))
    return [case for part in found.values() for case in part]


def main() -> None:
    """Print the table of the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--weights", default="u8")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers")
    args = parser.parse_args()
    engine = TextEngine.load(
        args.directory, EngineConfig(threads=args.threads, weights=args.weights, max_queue=100_000)
    )
    table: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for column, unseen in (("seen", False), ("held out", True)):
        rng = random.Random(_SEED + unseen)
        asked = cases(rng, args.count, unseen=unseen)
        right: collections.Counter[str] = collections.Counter()
        for (_, question), said in zip(asked, answers(engine, asked, rng), strict=True):
            right[question.skill] += said == question.answer
            if said != question.answer and args.wrong > 0:
                args.wrong -= 1
                print(f"{column}: {question.question} — {said!r} instead of {question.answer!r}", file=sys.stderr)
        for skill in {question.skill for _, question in asked}:
            table[skill][column] = f"{right[skill]}/{args.count}"
    engine.close()
    print("| skill | seen combinations | held-out combinations |\n|---|---|---|")
    for skill in sorted(table):
        print(f"| {skill} | {table[skill].get('seen', '')} | {table[skill].get('held out', '')} |")


if __name__ == "__main__":
    main()
