"""Writes what transformers makes of images, and answers about them, for the tests of vision-language models.

`python recipes/goldens/vision.py`, with torch, transformers and pillow. The models are not kept: the tests draw the same
weights from the same seed (`moltbot_testkit.random_llava`). A case whose likeliest two tokens ever come near each other is
refused: there float32 sums in another order might swap them.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "libs"))

from moltbot_testkit.random_llava import TEMPLATE, llava_config, llava_weights, write_llava

GOLDEN = Path(__file__).resolve().parents[2] / "tests/unit/moltbot_models/vision/golden"
TOKENS, LEAST_MARGIN = 12, 2e-3
CASES: dict[str, dict[str, Any]] = {
    "clip-llama": llava_config(),
    "clip-qwen2-two-layers": llava_config(
        "qwen2", vision_feature_layer=[-3, -1], vision_feature_select_strategy="full", text={"head_dim": 16}
    ),
    "siglip-mistral-untied": llava_config(
        "mistral", "siglip", vision_feature_layer=-1, text={"tie_word_embeddings": False, "num_key_value_heads": 1}
    ),
}
IMAGE = {"type": "image"}


def said(text: str) -> dict[str, str]:
    """A text part."""
    return {"type": "text", "text": text}


CONVERSATIONS: dict[str, tuple[list[tuple[str, list[dict[str, str]]]], list[str]]] = {
    # Name: roles and parts, the images in their order.
    "text": ([("user", [said("nothing to see, only words to read")])], []),
    "one": ([("user", [IMAGE, said("what is it?")])], ["png"]),
    "other": ([("user", [IMAGE, said("what is it?")])], ["jpeg"]),
    "last": ([("user", [said("a text that stands before the image "), IMAGE])], ["webp"]),
    "two": ([("user", [IMAGE, said(" and "), IMAGE, said(" differ how?")])], ["png", "webp"]),
    "twice": ([("user", [IMAGE, IMAGE, said("the same?")])], ["jpeg", "jpeg"]),
    "turns": (
        [("user", [IMAGE, said("first")]), ("assistant", [said("seen")]), ("user", [IMAGE, said("then")])],
        ["rgba", "png"],
    ),
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "clip": {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}},
    "clip-cut": {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}, "resample": 2},
    "clip-filled": {"size": {"shortest_edge": 17}, "crop_size": {"height": 24, "width": 24}},
    "siglip": {"size": {"height": 24, "width": 24}},
}


def images() -> dict[str, bytes]:
    """Files of all formats, sizes on both sides of what models take, and odd modes."""
    draw = np.random.default_rng(7)

    def noise(width: int, height: int, channels: int = 3) -> Image.Image:
        coarse = draw.integers(0, 256, (max(2, height // 6), max(2, width // 6), channels), np.uint8)
        picture = Image.fromarray(coarse.squeeze())
        return picture.resize((width, height), Image.Resampling.BICUBIC)

    turned = Image.Exif()
    turned[0x0112] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png": (noise(40, 56), "PNG", {}),
        "jpeg": (noise(90, 61), "JPEG", {"quality": 80}),
        "webp": (noise(20, 20), "WEBP", {"quality": 80}),
        "rgba": (noise(33, 47, 4), "PNG", {}),
        "grey": (noise(50, 25, 1), "PNG", {}),
        "palette": (noise(31, 44).quantize(16), "PNG", {}),
        "turned": (noise(64, 40), "JPEG", {"exif": turned}),
        "tiny": (noise(3, 5), "PNG", {}),
    }
    found: dict[str, bytes] = {}
    for name, (image, kind, options) in made.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        found[name] = file.getvalue()
    return found


def opened(data: bytes) -> Image.Image:
    """As transformers opens a file."""
    return load_image(Image.open(io.BytesIO(data)))


def preprocessing(files: dict[str, bytes]) -> None:
    """Pixels of every file by every processor."""
    pixels: dict[str, np.ndarray[Any, Any]] = {}
    for kind, config in PROCESSORS.items():
        processor = (SiglipImageProcessorPil if kind == "siglip" else CLIPImageProcessorPil)(**config)
        for name, data in files.items():
            values = processor(images=opened(data), return_tensors="np")["pixel_values"][0]
            pixels[f"{kind}/{name}"] = np.asarray(values, np.float32)
    np.savez_compressed(GOLDEN / "pixels.npz", **pixels)
    described = {name: base64.b64encode(data).decode() for name, data in files.items()}
    (GOLDEN / "images.json").write_text(json.dumps({"files": described, "processors": PROCESSORS}, indent=1) + "\n")


def answers(name: str, config: dict[str, Any], files: dict[str, bytes]) -> dict[str, list[int]]:
    """Greedy tokens of every conversation."""
    with tempfile.TemporaryDirectory() as scratch:
        path = write_llava(Path(scratch), config, llava_weights(config, len(name)))
        model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        siglip = config["vision_config"]["model_type"] == "siglip_vision_model"
        processor = LlavaProcessor(
            (SiglipImageProcessorPil if siglip else CLIPImageProcessorPil).from_pretrained(path),
            PreTrainedTokenizerFast(
                tokenizer_file=str(path / "tokenizer.json"), extra_special_tokens={"image_token": "<image>"}
            ),
            patch_size=config["vision_config"]["patch_size"],
            vision_feature_select_strategy=config["vision_feature_select_strategy"],
            num_additional_image_tokens=0 if siglip else 1,
            chat_template=TEMPLATE,
        )
    found: dict[str, list[int]] = {}
    for label, (turns, shown) in CONVERSATIONS.items():
        messages = [{"role": role, "content": parts} for role, parts in turns]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        given = {"images": [opened(files[file]) for file in shown]} if shown else {}
        inputs = processor(text=text, return_tensors="pt", **given)
        out = model.generate(
            **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=None,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        margin = min(float(two[0] - two[1]) for score in out.scores for two in score.topk(2).values)
        if margin < LEAST_MARGIN:
            raise SystemExit(f"{name}/{label}: two tokens are {margin:.1e} apart; draw other weights")
        length = inputs["input_ids"].shape[1]
        found[label] = [length, *out.sequences[0, length:].tolist()]
        print(f"{name}/{label}: {length} tokens, margin {margin:.3f}")
    return found


def main() -> None:
    """Write all goldens."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    files = images()
    preprocessing(files)
    turns = {name: {"turns": turns, "images": shown} for name, (turns, shown) in CONVERSATIONS.items()}
    found = {name: {"config": config, "answers": answers(name, config, files)} for name, config in CASES.items()}
    (GOLDEN / "greedy.json").write_text(json.dumps({"conversations": turns, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
