"""Writes what transformers answers greedily, for random models of every shape that the text engine builds.

The models are not kept: the tests draw the same weights from the same seed (`moltbot_testkit.random_model`), and a digest
in the file tells when they did not. A case whose likeliest two tokens ever come near each other is refused: there float32
sums in another order might swap them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from moltbot_testkit.random_model import model_config, random_weights, stored_as, weights_sha256, write_model

GOLDEN = Path(__file__).resolve().parents[2] / "tests/unit/moltbot_models/engine/golden/greedy.json"
TOKENS = 72
LEAST_MARGIN = 1e-3
"""Between the likeliest two logits, which lie some units apart."""
PROMPTS = ("a", "mixed lengths " * 2, "b" * 33, "c" * 64, "a longer one, over several steps " * 5, "all of it " * 30)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
TUNED_YARN = YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.1}
UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
CASES: dict[str, tuple[dict[str, Any], str, int]] = {
    # Name: config.json, how the numbers are stored, in how many files.
    "llama": (model_config("llama"), "F32", 1),
    "llama-untied-biased": (model_config("llama", attention_bias=True, mlp_bias=True, **UNTIED), "BF16", 3),
    "llama-llama3": (model_config("llama", rope_scaling=LLAMA3), "F16", 1),
    "llama-linear": (model_config("llama", rope_scaling={"rope_type": "linear", "factor": 4.0}), "F32", 1),
    "llama-dynamic": (model_config("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "BF16", 1),
    "llama-yarn": (model_config("llama", rope_scaling=YARN, max_position_embeddings=64, **UNTIED), "F32", 1),
    "llama-old-names": (model_config("llama", rope_scaling={"type": "linear", "factor": 2.0}), "F16", 2),
    "qwen2": (model_config("qwen2"), "BF16", 1),
    "qwen2-untied-yarn": (
        model_config("qwen2", rope_scaling=TUNED_YARN, head_dim=16, hidden_size=64, num_attention_heads=4, **UNTIED),
        "F32",
        2,
    ),
    "qwen3": (model_config("qwen3", head_dim=64), "F32", 1),
    "qwen3-untied": (model_config("qwen3", num_key_value_heads=6, **UNTIED), "BF16", 2),
    "mistral": (model_config("mistral", num_key_value_heads=1, sliding_window=None, **UNTIED), "F16", 2),
    "mistral-tied-window": (model_config("mistral", sliding_window=512), "BF16", 1),
}


def greedy(model: Any, prompt: list[int]) -> tuple[list[int], float]:
    """The answer, and the least margin by which a token won; cut short where that is too little."""
    tokens, least, past = torch.tensor([prompt]), float("inf"), None
    answer: list[int] = []
    for _ in range(TOKENS):
        out = model(tokens, past_key_values=past, use_cache=True)
        past = out.past_key_values
        (first, second), (token, _) = (part.tolist() for part in out.logits[0, -1].topk(2))
        least = min(least, first - second)
        answer.append(token)
        if least < LEAST_MARGIN:
            break
        tokens = torch.tensor([[token]])
    return answer, least


def case(name: str, config: dict[str, Any], kind: str, files: int) -> dict[str, Any]:
    for seed in range(300):
        weights = stored_as(random_weights(config, seed), kind)
        with tempfile.TemporaryDirectory() as scratch:
            directory = write_model(Path(scratch), config, weights, files=files)
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
            with torch.inference_mode():
                found: list[tuple[list[int], float]] = []
                for prompt in PROMPTS:
                    found.append(greedy(model, tokenizer.encode(prompt).ids))
                    if found[-1][1] < LEAST_MARGIN:
                        break
        if min(margin for _, margin in found) >= LEAST_MARGIN:
            print(f"{name}: seed {seed}, margin {min(margin for _, margin in found):.4f}")
            return {
                "name": name,
                "config": config,
                "seed": seed,
                "stored": kind,
                "files": files,
                "weights_sha256": weights_sha256(weights),
                "answers": [answer for answer, _ in found],
            }
    raise SystemExit(f"{name}: no seed among 300 has clear answers")


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    cases = [case(name, *rest) for name, rest in CASES.items()]
    head = {"transformers": transformers.__version__, "torch": torch.__version__, "prompts": PROMPTS, "cases": cases}
    text = json.dumps(head, indent=1)
    # A line for each answer, not for each number.
    GOLDEN.write_text(_numbers_in_a_line(text) + "\n")


def _numbers_in_a_line(text: str) -> str:
    lines: list[str] = []
    for line in text.split("\n"):
        bare = line.strip()
        if lines and (bare.rstrip(",").isdigit() or (bare.startswith("]") and lines[-1].rstrip()[-1].isdigit())):
            lines[-1] += bare if lines[-1].endswith("[") or bare.startswith("]") else f" {bare}"
        else:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
