"""Evaluates a model of this recipe: `python recipes/tiny_model/evaluate.py DIR --count 100`."""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own abbreviation
from safetensors.torch import load_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_model import cases, conversation
from tiny_model.conversation import Said, Setting
from tiny_model.model import Shape, hidden_states, rope
from tiny_model.skills import prose
from tiny_model.tokenizer import END, END_OF_TEXT

_BATCH, _MOST_TOKENS = 32, 160


class Model:
    """A trained model, computing in f32."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text())
        self._shape = Shape(
            config["vocab_size"], config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
            config["num_key_value_heads"], config["intermediate_size"], config["max_position_embeddings"],
        )  # fmt: skip
        self._weights = {name: weight.float() for name, weight in load_file(directory / "model.safetensors").items()}
        self._ends = {self.tokenizer.token_to_id(END), self.tokenizer.token_to_id(END_OF_TEXT)}

    @torch.inference_mode()
    def answers(self, prompts: list[str], most: int = _MOST_TOKENS) -> list[str]:
        """Greedy answers, a batch at once; prompts are padded on the left."""
        ids = [self.tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
        width = max(map(len, ids))
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in ids])
        pad = torch.tensor([width - len(row) for row in ids])
        places = torch.arange(width)
        real = places[None] >= pad[:, None]
        # A padding token sees itself, so that no row of the mask is empty.
        sees = (real[:, None] | torch.eye(width, dtype=torch.bool)[None]) & torch.ones(width, width).tril().bool()
        sees, positions = sees[:, None], (places[None] - pad[:, None]).clamp(min=0)
        cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        out: list[list[int]] = [[] for _ in ids]
        alive = [True] * len(ids)
        for _ in range(most):
            states = hidden_states(
                self._weights, self._shape, tokens, rope(self._shape, positions, torch.float32), sees, cache
            )
            best = self._logits(states[:, -1]).argmax(-1)
            for row, token in enumerate(best.tolist()):
                alive[row] = alive[row] and token not in self._ends
                if alive[row]:
                    out[row].append(token)
            if not any(alive):
                break
            tokens, positions = best[:, None], positions[:, -1:] + 1
            real = torch.cat((real, torch.ones(len(ids), 1, dtype=torch.bool)), 1)
            sees = real[:, None, None]
        return [self.tokenizer.decode(row, skip_special_tokens=False) for row in out]

    @torch.inference_mode()
    def entropy(self, prompt: str, temperature: float, count: int, generator: torch.Generator) -> tuple[float, str]:
        """Bits a token of sampled text, and the text."""
        tokens = torch.tensor([self.tokenizer.encode(prompt, add_special_tokens=False).ids])
        positions = torch.arange(tokens.shape[1])[None]
        cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        bits: list[float] = []
        out: list[int] = []
        while len(out) < count:
            states = hidden_states(
                self._weights, self._shape, tokens, rope(self._shape, positions, torch.float32), None, cache
            )
            share = torch.softmax(self._logits(states[0, -1]) / temperature, -1)
            bits.append(-(share * share.clamp(min=1e-12).log2()).sum().item())
            token = int(torch.multinomial(share, 1, generator=generator))
            if token in self._ends:
                break
            out.append(token)
            tokens, positions = torch.tensor([[token]]), positions[:, -1:] + 1
        return sum(bits) / len(bits), self.tokenizer.decode(out)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return F.linear(states, self._weights["model.embed_tokens.weight"])


def main() -> None:
    """Print a table: skill by split, share of right answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--failures", type=int, default=0, help="failures to print for each skill and split")
    parser.add_argument("--demo", action="store_true", help="only the prompts of the documentation")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = Model(arguments.directory)
    todo = list(cases.demo())
    if not arguments.demo:
        todo += cases.cases(random.Random(20_000), arguments.count)
    todo.sort(key=lambda case: len(case.prompt))
    right: collections.Counter[tuple[str, str]] = collections.Counter()
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    shown: collections.Counter[tuple[str, str]] = collections.Counter()
    for start in range(0, len(todo), _BATCH):
        some = todo[start : start + _BATCH]
        for case, answer in zip(some, model.answers([case.prompt for case in some]), strict=True):
            key = (case.skill, case.split)
            total[key] += 1
            right[key] += case.passed(answer)
            if not case.passed(answer) and shown[key] < arguments.failures:
                shown[key] += 1
                asked = case.prompt.rsplit("<|im_start|>user\n", 1)[-1].removesuffix(
                    "<|im_end|>\n<|im_start|>assistant\n"
                )
                print(f"{key}: {asked!r}\n  got    {answer!r}\n  wanted {case.exact or case.contains!r}")
        print(f"evaluating: {min(start + _BATCH, len(todo))} of {len(todo)}", file=sys.stderr, flush=True)
    splits = [*cases.SPLITS, "demo"]
    print("| skill | " + " | ".join(splits) + " |\n|---" * 1 + "|---" * len(splits) + "|")
    for skill in dict.fromkeys(skill for skill, _ in sorted(total)):
        cells = [f"{right[skill, split]}/{total[skill, split]}" if total[skill, split] else "" for split in splits]
        print(f"| {skill} | " + " | ".join(cells) + " |")
    generator = torch.Generator().manual_seed(1)
    prompt = (
        conversation.head(Setting("")) + conversation.pieces([Said("user", "Tell me a story about the sea.")])[0][0]
    )
    for temperature in (1.0, 0.8):
        told = [model.entropy(prompt + "<|im_start|>assistant\n", temperature, 200, generator) for _ in range(5)]
        print(f"free text at T = {temperature}: {sum(bits for bits, _ in told) / len(told):.1f} bits a token")
        print("  " + told[0][1])
    print(f"topics: {len(prose.TOPICS)}")


if __name__ == "__main__":
    main()
