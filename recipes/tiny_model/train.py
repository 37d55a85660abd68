"""Trains the tiny model on a CPU: `python recipes/tiny_model/train.py --out DIR --minutes 40 --threads 1`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own abbreviation
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_model import conversation, dialogues, lexicon, packing
from tiny_model import tokenizer as tokens
from tiny_model.model import Shape, hidden_states, initial, rope
from tiny_model.optimizer import Optimizer

_ROW_LENGTH, _ROWS = 512, 8
_COPY_UNTIL = 0.5
_WARMUP_STEPS = 100
_REPORT_STEPS, _SAVE_S = 20, 240.0


def tokenizer_texts(count: int, seed: int) -> list[str]:
    """Conversations as they are rendered, for training the tokeniser."""
    rng = random.Random(seed)
    out: list[str] = []
    for _ in range(count):
        there = dialogues.scene(rng)
        out.append(conversation.head(there.setting))
        for _ in range(6):
            out += [text for text, _ in conversation.pieces(dialogues.conversation(rng, there))]
    everyday = [*lexicon.VERBS, *lexicon.NOUNS, *lexicon.ADJECTIVES, *lexicon.ADVERBS, *lexicon.FRAMES]
    return [*out, *(f"the {word} {word.capitalize()}" for word in everyday for _ in range(count // 400))]


def copies(progress: float) -> int:
    """Rows of a batch that only teach copying: one at first, none later."""
    return 1 if progress < _COPY_UNTIL else 0


def precision() -> torch.dtype:
    """bf16 where the processor multiplies it, else f32: with AVX2 alone a product in bf16 takes five times as long."""
    return torch.bfloat16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else torch.float32


def batch(packer: packing.Packer, shape: Shape, dtype: torch.dtype, copied: int = 0) -> tuple[torch.Tensor, ...]:
    """Tokens, cosine, sine, mask, places to predict from (flat) and what they predict."""
    rows = [packer.copy_row() if place < copied else packer.row() for place in range(_ROWS)]
    ids = torch.from_numpy(np.stack([row.tokens for row in rows]))
    cos, sin = rope(shape, torch.from_numpy(np.stack([row.positions for row in rows])), dtype)
    sees = torch.from_numpy(np.stack([packing.sees(row) for row in rows]))[:, None]
    # A learnt token is never the first of a row: a frame that is not learnt stands before it.
    places = torch.from_numpy(
        np.concatenate([np.flatnonzero(row.learnt) + i * _ROW_LENGTH for i, row in enumerate(rows)])
    )
    return ids, cos, sin, sees, places - 1, ids.view(-1)[places]


def save(out: Path, shape: Shape, tokenizer: Tokenizer, masters: dict[str, torch.Tensor]) -> None:
    """Write a standard Hugging Face directory."""
    out.mkdir(parents=True, exist_ok=True)
    end, pad = tokenizer.token_to_id(tokens.END), tokenizer.token_to_id(tokens.END_OF_TEXT)
    (out / "config.json").write_text(json.dumps(shape.config(end, pad), indent=2) + "\n")
    generation = {"bos_token_id": None, "eos_token_id": [end, pad], "pad_token_id": pad, "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokens.save(tokenizer, out, shape.context)
    weights = {name: master.bfloat16().contiguous() for name, master in masters.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def rate(progress: float, steps: int, decay_from: float) -> float:
    """Share of the learning rate: up in some steps, level, then down to nothing."""
    return min(1.0, (steps + 1) / _WARMUP_STEPS, max(0.0, (1 - progress) / max(1e-9, 1 - decay_from)))


def main() -> None:
    """Train until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0, help="share of the learning rates; less to go on with")
    parser.add_argument("--decay-from", type=float, default=0.35, help="share of the time after which the rates fall")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="fuse with torch.compile (needs a C++ compiler)")
    parser.add_argument("--start", type=Path, help="directory of a model of this recipe to go on from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = Shape()
    if arguments.start:
        tokenizer = Tokenizer.from_file(str(arguments.start / "tokenizer.json"))
        start = load_file(arguments.start / "model.safetensors")
    else:
        print("tokeniser: training", flush=True)
        tokenizer = tokens.train(tokenizer_texts(4000, arguments.seed), shape.vocabulary)
        start = initial(shape, torch.Generator().manual_seed(arguments.seed))
    dtype = precision()
    weights = {name: weight.to(dtype, copy=True).requires_grad_() for name, weight in start.items()}
    print(f"parameters: {sum(weight.numel() for weight in weights.values()):,}, computed in {dtype}", flush=True)
    optimizer = Optimizer(weights)
    forward = torch.compile(hidden_states, dynamic=False) if arguments.compile else hidden_states
    packer = packing.Packer(tokenizer, _ROW_LENGTH, random.Random(arguments.seed + 1))
    budget_s = arguments.minutes * 60
    began = saved = time.monotonic()
    steps, losses, learnt = 0, [], 0
    while (spent := time.monotonic() - began) < budget_s:
        ids, cos, sin, sees, places, targets = batch(packer, shape, dtype, copies(spent / budget_s))
        states = forward(weights, shape, ids, (cos, sin), sees)
        logits = F.linear(states.view(-1, shape.hidden)[places], weights["model.embed_tokens.weight"])
        loss = F.cross_entropy(logits.float(), targets)
        loss.backward()
        optimizer.step(arguments.rate * rate(spent / budget_s, steps, arguments.decay_from))
        steps += 1
        losses.append(loss.item())
        learnt += len(targets)
        if steps % _REPORT_STEPS == 0:
            seen = steps * _ROWS * _ROW_LENGTH
            spent = time.monotonic() - began
            mean = sum(losses[-_REPORT_STEPS:]) / _REPORT_STEPS
            print(
                f"training: step {steps}, loss {mean:.3f}, {seen / 1e6:.2f} M tokens ({learnt / 1e6:.2f} M learnt), "
                f"{seen / spent:,.0f} tokens/s, {max(0.0, budget_s - spent) / 60:.1f} min left",
                flush=True,
            )
        if time.monotonic() - saved > _SAVE_S:
            save(arguments.out, shape, tokenizer, optimizer.masters)
            saved = time.monotonic()
    save(arguments.out, shape, tokenizer, optimizer.masters)
    print(f"done: {arguments.out}", flush=True)


if __name__ == "__main__":
    main()
