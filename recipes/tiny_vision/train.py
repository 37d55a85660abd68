"""Trains the tiny vision model on a CPU: `python recipes/tiny_vision/train.py --out DIR --minutes 10 --threads 1`."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own abbreviation
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_vision import pictures, questions
from tiny_vision import tokenizer as tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenizers import Tokenizer

_IMAGE, _PATCH, _HIDDEN, _CONTEXT = 48, 8, 96, 512
_PATCHES = (_IMAGE // _PATCH) ** 2
_BATCH = 64
_WITHOUT_PICTURE, _TWO_PICTURES = 0.06, 0.1
_PICTURES = 12_000
_EYES_SHARE = 0.45
_MUON_RATE, _ADAM_RATE, _WEIGHT_DECAY = 0.02, 3e-3, 0.01
_WARMUP_STEPS, _COOLING = 40, 0.5
_REPORT_STEPS = 50
_IGNORED = -100
_HALF = [0.5, 0.5, 0.5]


def shape(tokenizer: Tokenizer) -> LlavaConfig:
    """The model's sizes: CLIP's encoder and Llama's decoder, both small."""
    eyes = CLIPVisionConfig(
        hidden_size=_HIDDEN, intermediate_size=2 * _HIDDEN, num_hidden_layers=3, num_attention_heads=3,
        image_size=_IMAGE, patch_size=_PATCH, hidden_act="quick_gelu", projection_dim=_HIDDEN,
    )  # fmt: skip
    end, pad = tokenizer.token_to_id(tokens.END), tokenizer.token_to_id(tokens.PAD)
    text = LlamaConfig(
        vocab_size=tokens.SIZE, hidden_size=_HIDDEN, intermediate_size=2 * _HIDDEN, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=3, head_dim=32, max_position_embeddings=_CONTEXT, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=eyes, text_config=text, image_token_index=tokenizer.token_to_id(tokens.IMAGE),
        image_seq_length=_PATCHES, vision_feature_layer=-1, vision_feature_select_strategy="default",
        tie_word_embeddings=True, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip


class Pool:
    """Pictures drawn once, and asked about many times."""

    def __init__(self, processor: CLIPImageProcessorPil, rng: random.Random) -> None:
        kinds = pictures.kinds(unseen=False)
        self.scenes = [_scene(rng, kinds) for _ in range(_PICTURES)]
        drawn = (pictures.draw(rng, scene) for scene in self.scenes)
        self.pixels = torch.cat([processor(images=one, return_tensors="pt")["pixel_values"] for one in drawn])
        across, things = _IMAGE // _PATCH, [*pictures.COLOURS]
        shown = [list(pictures.shown_at(scene, across)) for scene in self.scenes]
        # The ground is the class behind the last.
        self.shapes = torch.tensor(
            [
                [len(pictures.SHAPES) if one is None else pictures.SHAPES.index(one.shape) for one in row]
                for row in shown
            ]
        )
        self.colours = torch.tensor(
            [[len(things) if one is None else things.index(one.colour) for one in row] for row in shown]
        )


def _scene(rng: random.Random, kinds: list[tuple[str, str]]) -> pictures.Scene:
    drawn = rng.random()
    if drawn < 0.35:
        return pictures.single(rng, rng.choice(kinds))
    if drawn < 0.65:
        return pictures.several(rng, rng.choice(kinds), rng.choice((1, 2, 2, 3, 3, 4, 4)))
    return pictures.pair(rng, *rng.sample(kinds, 2))


class Lessons:
    """Questions about the pool's pictures, as tokens and labels."""

    def __init__(self, tokenizer: Tokenizer, pool: Pool, rng: random.Random) -> None:
        self._tokenizer, self._pool, self._rng = tokenizer, pool, rng
        self._ids = {name: tokenizer.token_to_id(name) for name in tokens.SPECIAL}

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens and labels padded to one length, and the pictures' numbers in the rows' order."""
        rows = [self._row() for _ in range(_BATCH)]
        longest = max(len(ids) for ids, _, _ in rows)
        # Padding stands behind what is learnt, so causal attention never sees it.
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _, _ in rows])
        labels = torch.tensor([labels + [_IGNORED] * (longest - len(labels)) for _, labels, _ in rows])
        return ids, labels, torch.tensor([number for _, _, numbers in rows for number in numbers])

    def _row(self) -> tuple[list[int], list[int], list[int]]:
        """Tokens, labels and pictures: a question, seldom without a picture or with another one after it."""
        rng = self._rng
        if rng.random() < _WITHOUT_PICTURE:
            return (*self._turn(questions.without_picture(rng), picture=False), [])
        ids: list[int] = []
        labels: list[int] = []
        numbers = [rng.randrange(_PICTURES) for _ in range(2 if rng.random() < _TWO_PICTURES else 1)]
        for number in numbers:
            (asked,) = questions.about(rng, self._pool.scenes[number], 1)
            more = self._turn(asked, picture=True)
            ids, labels = ids + more[0], labels + more[1]
        return ids, labels, numbers

    def _turn(self, asked: questions.Asked, *, picture: bool) -> tuple[list[int], list[int]]:
        image = [self._ids[tokens.IMAGE]] * _PATCHES if picture else []
        words = self._tokenizer.encode(asked.question).ids
        head = [self._ids["<|user|>"], *image, *words, self._ids[tokens.END], self._ids["<|assistant|>"]]
        said = [*self._tokenizer.encode(asked.answer).ids, self._ids[tokens.END]]
        return head + said, [_IGNORED] * len(head) + said


class Stage:
    """Updates some weights for so many seconds of CPU time, at a rate that rises, stays and falls.

    Muon for the layers' matrices, AdamW for the rest.

    Source: Jordan et al., "Muon" (2024); Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).
    """

    def __init__(self, name: str, weights: dict[str, torch.nn.Parameter], seconds: float) -> None:
        self._name, self._seconds = name, seconds
        inner = {
            key for key, weight in weights.items() if weight.ndim == 2 and "embed" not in key and "head" not in key
        }
        matrices = [weight for key, weight in weights.items() if key in inner]
        others = [weight for key, weight in weights.items() if key not in inner]
        self._weights = [*matrices, *others]
        self._updates = [
            torch.optim.Muon(matrices, lr=_MUON_RATE, momentum=0.95, weight_decay=_WEIGHT_DECAY),
            torch.optim.AdamW(others, lr=_ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def run(self, loss_of: Callable[[], torch.Tensor]) -> int:
        """Take steps until the time is over; return how many."""
        rates = [update.param_groups[0]["lr"] for update in self._updates]
        # CPU time: another process beside this one changes nothing.
        began_s, step, total = time.process_time(), 0, 0.0
        while (progress := (time.process_time() - began_s) / self._seconds) < 1:
            scale = min(1.0, (step + 1) / _WARMUP_STEPS, (1 - progress) / _COOLING + 0.02)
            for update, rate in zip(self._updates, rates, strict=True):
                update.param_groups[0]["lr"] = rate * scale
            loss = loss_of()
            for update in self._updates:
                update.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
            for update in self._updates:
                update.step()
            step, total = step + 1, total + loss.item()
            if step % _REPORT_STEPS == 0:
                spent_s = time.process_time() - began_s
                print(f"{self._name} {spent_s:6.0f} s  step {step}  loss {total / _REPORT_STEPS:.4f}", flush=True)
                total = 0.0
        return step


def train_eyes(model: LlavaForConditionalGeneration, pool: Pool, seconds: float) -> int:
    """Teach the tower to name what each patch shows; the heads that name it are dropped."""
    tower = model.model.vision_tower
    heads = torch.nn.ModuleDict(
        {
            "shape_head": torch.nn.Linear(_HIDDEN, len(pictures.SHAPES) + 1),
            "colour_head": torch.nn.Linear(_HIDDEN, len(pictures.COLOURS) + 1),
        }
    )

    def loss_of() -> torch.Tensor:
        chosen = torch.randint(_PICTURES, (_BATCH,))
        seen = tower(pool.pixels[chosen]).last_hidden_state[:, 1:].flatten(0, 1)
        return F.cross_entropy(heads["shape_head"](seen), pool.shapes[chosen].flatten()) + F.cross_entropy(
            heads["colour_head"](seen), pool.colours[chosen].flatten()
        )

    weights = {**dict(tower.named_parameters()), **dict(heads.named_parameters())}
    used = {key: weight for key, weight in weights.items() if "post_layernorm" not in key}
    return Stage("eyes", used, seconds).run(loss_of)


def train_words(model: LlavaForConditionalGeneration, pool: Pool, lessons: Lessons, seconds: float) -> int:
    """Teach projector and text model to answer; the tower stays as it is, so each picture is encoded once."""
    with torch.no_grad():
        parts = pool.pixels.split(256)
        seen = torch.cat([model.model.vision_tower(part).last_hidden_state[:, 1:] for part in parts])

    def loss_of() -> torch.Tensor:
        ids, labels, numbers = lessons.batch()
        words = model.get_input_embeddings()(ids)
        mask = (ids == model.config.image_token_index)[..., None].expand_as(words)
        words = words.masked_scatter(mask, model.model.multi_modal_projector(seen[numbers]))
        return model(inputs_embeds=words, labels=labels).loss

    weights = {key: weight for key, weight in model.named_parameters() if "vision_tower" not in key}
    return Stage("words", weights, seconds).run(loss_of)


def train(args: argparse.Namespace) -> None:
    """Train for so many minutes and write a directory that any LLaVA engine reads."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    began_s = time.process_time()
    rng = random.Random(args.seed)
    tokenizer = tokens.train(questions.corpus())
    model = LlavaForConditionalGeneration(shape(tokenizer))
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters")
    size: dict[str, Any] = {"size": {"shortest_edge": _IMAGE}, "crop_size": {"height": _IMAGE, "width": _IMAGE}}
    processor = CLIPImageProcessorPil(**size, image_mean=_HALF, image_std=_HALF)
    pool = Pool(processor, rng)
    left_s = args.minutes * 60 * args.threads - (time.process_time() - began_s)
    eyes = train_eyes(model, pool, left_s * _EYES_SHARE)
    words = train_words(model, pool, Lessons(tokenizer, pool, rng), left_s * (1 - _EYES_SHARE))
    args.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    tokens.save(tokenizer, args.out, _CONTEXT)
    print(f"{eyes} steps for the eyes, {words} for the words, {_BATCH} rows each")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
