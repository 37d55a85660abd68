"""Images become the pixels that transformers makes of them, and what is no image of a sane size is refused."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moltbot_models.engine.config import EngineError
from moltbot_models.vision.preprocessing import MAX_BYTES, MAX_PIXELS, check_together, read_preprocessing

GOLDEN = Path(__file__).parent / "golden"
PIXELS = np.load(GOLDEN / "pixels.npz")
PROCESSORS = json.loads((GOLDEN / "images.json").read_text())["processors"]
PLACE = "messages[0].parts[1]"


@pytest.fixture
def preprocessing(tmp_path):
    def made(edge=24, **config):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        return read_preprocessing(tmp_path, edge)

    return made


@pytest.fixture
def clip(preprocessing):
    return preprocessing(**PROCESSORS["clip"])


def png(width, height, *, colour=2, rows=b""):
    """A PNG file of any claimed size, with or without the data that it would need."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("key", PIXELS.files)
def test_pixels_equal_those_of_transformers(key, preprocessing, files):
    kind, name = key.split("/")
    given = {"image_processor_type": "SiglipImageProcessor"} if kind == "siglip" else {}
    found = preprocessing(**given, **PROCESSORS[kind]).pixels(files[name], PLACE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, PIXELS[key], atol=1e-6)


def test_newer_exports_nest_the_image_processor(tmp_path, files):
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSORS["clip"]}))
    found = read_preprocessing(tmp_path, 24).pixels(files["png"], PLACE)
    np.testing.assert_allclose(found, PIXELS["clip/png"], atol=1e-6)


def test_a_bomb_is_refused_by_its_header(clip):
    edge = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(EngineError, match=rf"messages\[0\].parts\[1\].*{edge} by {edge} pixels") as refused:
        clip.pixels(png(edge, edge), PLACE)
    assert refused.value.reason == "INVALID_ARGUMENT"


def test_a_bomb_of_gigapixels_is_refused_too(clip):
    with pytest.raises(EngineError, match=r"parts\[1\]"):
        clip.pixels(png(100_000, 100_000), PLACE)


def test_a_thread_of_an_image_is_refused_before_it_is_stretched(clip):
    file = io.BytesIO()
    Image.new("RGB", (1, 100_000)).save(file, "PNG")
    with pytest.raises(EngineError, match="too long and thin"):
        clip.pixels(file.getvalue(), PLACE)


def test_many_large_images_are_refused_before_the_first_is_unpacked(clip):
    edge = int(MAX_PIXELS**0.5)
    areas = [(f"part {number}", clip.area(png(edge, edge), "part")) for number in range(4)]
    check_together(areas[:2])
    with pytest.raises(EngineError, match=r"part 2: .*together"):
        check_together(areas)


def test_too_many_bytes_are_refused(clip):
    with pytest.raises(EngineError, match=f"{MAX_BYTES + 1} bytes"):
        clip.pixels(b"x" * (MAX_BYTES + 1), PLACE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind, clip):
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(EngineError, match="animated"):
        clip.pixels(file.getvalue(), PLACE)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_not_even_tried(kind, clip):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    with pytest.raises(EngineError, match="not a PNG, JPEG or WebP"):
        clip.pixels(file.getvalue(), PLACE)


def outcome(preprocessing, data):
    """The reason of the refusal, or whether the pixels are numbers."""
    try:
        return bool(np.isfinite(preprocessing.pixels(data, PLACE)).all())
    except EngineError as error:
        return error.reason


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_files_cut_anywhere_end_in_a_refusal_or_pixels(name, clip, files):
    data = files[name]
    cuts = range(0, len(data) - 1, max(1, len(data) // 60))
    assert {outcome(clip, data[:end]) for end in cuts} <= {"INVALID_ARGUMENT", True}
    assert outcome(clip, data[:40]) == "INVALID_ARGUMENT"


def test_random_damage_ends_in_a_refusal_or_pixels(clip, files):
    draw = np.random.default_rng(3)
    for data in files.values():
        for _ in range(20):
            damaged = bytearray(data)
            for place in draw.integers(8, len(data), 4):
                damaged[place] ^= 1 << draw.integers(8)
            assert outcome(clip, bytes(damaged)) in {"INVALID_ARGUMENT", True}


@pytest.mark.parametrize(
    ("config", "reason", "said"),
    [
        ({"image_processor_type": "LlavaNextImageProcessor"}, "MODEL_UNSUPPORTED", "LlavaNextImageProcessor"),
        ({"do_pad": True}, "MODEL_UNSUPPORTED", "do_pad"),
        ({"do_normalize": False}, "MODEL_UNSUPPORTED", "do_normalize"),
        ({"size": {"max_height": 24, "max_width": 24}}, "MODEL_UNSUPPORTED", "size"),
        ({"size": {"shortest_edge": 24, "longest_edge": 48}}, "MODEL_UNSUPPORTED", "size"),
        ({"resample": 9}, "MODEL_UNSUPPORTED", "resample 9"),
        ({"crop_size": {"height": 32, "width": 32}}, "MODEL_INVALID", "24 pixels"),
        ({"image_std": [0.5, 0.0, 0.5]}, "MODEL_INVALID", "image_std"),
    ],
)
def test_what_is_not_built_is_refused_by_name(config, reason, said, preprocessing):
    with pytest.raises(EngineError, match=said) as refused:
        preprocessing(**PROCESSORS["clip"] | config)
    assert refused.value.reason == reason


def test_a_directory_without_preprocessing_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"preprocessor_config.json is missing"):
        read_preprocessing(tmp_path, 24)
