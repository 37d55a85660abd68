"""Encoded images to pixels as transformers' image processors make them, within hard limits.

Source: `CLIPImageProcessorPil`, `SiglipImageProcessorPil` and `load_image` of transformers.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageOps

from moltbot_models.engine.config import EngineError
from moltbot_models.vision.file_parts import too_many

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_BYTES = 20 << 20
"""Of an encoded image."""
MAX_PIXELS = 50_000_000
"""Of an image, and of what its edges are stretched to before the middle is cut out."""
MAX_PIXELS_TOGETHER = 100_000_000
"""Of all images of a request: small files may be large images, and each takes its time to unpack."""
_FORMATS = ("PNG", "JPEG", "WEBP")
_FILE, _NESTED_FILE = "preprocessor_config.json", "processor_config.json"
_KNOWN = frozenset(
    f"{family}{kind}"
    for family in ("CLIP", "Siglip", "Llava")
    for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)
_CLIP_MEAN, _CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    },
    "Siglip": {
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What an image goes through; the result is square."""

    edge: int
    """Pixels of an edge of the result."""
    resize_shortest: int | None
    """The shorter edge becomes so long, the longer one keeps the proportion; None: both become `edge`."""
    crops: bool
    """Whether the middle square is cut out."""
    resample: Image.Resampling
    factor: float
    """What a pixel's 0 to 255 are multiplied with."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def area(self, data: bytes, place: str) -> int:
        """The pixels of an image, by its header alone.

        Raises:
            EngineError: `INVALID_ARGUMENT` if it is none, moves, or is too large.
        """
        with _opened(data, place, self._stretches) as image:
            return image.width * image.height

    def pixels(self, data: bytes, place: str) -> NDArray[np.float32]:
        """Decode an image and prepare it.

        Orientation as EXIF has it is applied, transparency is dropped, of a photograph with several pictures (MPO) the
        first is taken.

        Args:
            data: A PNG, JPEG or WebP file.
            place: Where in the request it stands, for errors.

        Returns:
            float32 [3, edge, edge].

        Raises:
            EngineError: `INVALID_ARGUMENT` if it cannot be read, moves, or is too large.
        """
        image = self._square(_decoded(data, place, self._stretches), place)
        values = np.asarray(image, np.uint8).astype(np.float64) * self.factor
        values = (values.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _stretches(self, width: int, height: int) -> bool:
        """Whether resizing makes too many pixels of a long and thin image."""
        if self.resize_shortest is None:
            return False
        return self.resize_shortest**2 * max(width, height) / min(width, height) > MAX_PIXELS

    def _square(self, image: Image.Image, place: str) -> Image.Image:
        edge = self.edge
        width, height = image.size
        if self.resize_shortest is None:
            image = image.resize((edge, edge), self.resample)
        else:
            short = self.resize_shortest
            longer = int(short * max(width, height) / min(width, height))
            image = image.resize((short, longer) if width <= height else (longer, short), self.resample)
        if self.crops:
            # Beyond its edges an image is black; a gap that is odd has its larger half on the left.
            left, top = ((size - edge) // 2 for size in image.size)
            image = image.crop((left, top, left + edge, top + edge))
        if image.size != (edge, edge):
            raise EngineError("MODEL_INVALID", f"{place}: {_FILE} makes {image.size} of it, the model takes {edge}")
        return image


def check_together(areas: Sequence[tuple[str, int]]) -> None:
    """Refuse a request whose images have too many pixels.

    Args:
        areas: Places and pixels of the images, in their order.

    Raises:
        EngineError: `INVALID_ARGUMENT` naming the image that is too much.
    """
    total = 0
    for place, area in areas:
        total += area
        if total > MAX_PIXELS_TOGETHER:
            raise _refused(place, f"{total} pixels with those before it, {MAX_PIXELS_TOGETHER} are allowed together")


def _decoded(data: bytes, place: str, stretches: Callable[[int, int], bool]) -> Image.Image:
    with _opened(data, place, stretches) as image:
        upright = ImageOps.exif_transpose(image)
        return upright if upright.mode == "RGB" else upright.convert("RGB")


@contextlib.contextmanager
def _opened(data: bytes, place: str, stretches: Callable[[int, int], bool]) -> Generator[Image.Image]:
    """An image of which the header was read and is allowed; nothing is unpacked yet."""
    if len(data) > MAX_BYTES:
        raise _refused(place, f"{len(data)} bytes, {MAX_BYTES} are allowed")
    if parts := too_many(data):
        raise _refused(place, parts)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            why = _too_much(image, stretches)
            if not why:
                yield image
    except Exception as error:  # decoders of foreign bytes raise whatever they meet
        raise _refused(place, f"not a PNG, JPEG or WebP image that can be read ({type(error).__name__})") from error
    if why:
        raise _refused(place, why)


def _too_much(image: Image.Image, stretches: Callable[[int, int], bool]) -> str:
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"{width} by {height} pixels, {MAX_PIXELS} are allowed"
    if stretches(width, height):
        return f"{width} by {height} pixels are too long and thin"
    return "it is animated; send one picture" if image.format != "MPO" and getattr(image, "n_frames", 1) > 1 else ""


def _refused(place: str, why: str) -> EngineError:
    return EngineError("INVALID_ARGUMENT", f"{place}: the image is refused: {why}")


def read_preprocessing(path: Path, edge: int) -> Preprocessing:
    """Read preprocessor_config.json, or the part of processor_config.json that newer exports have instead.

    Args:
        path: The model's directory.
        edge: Pixels that the vision tower takes.

    Raises:
        EngineError: `MODEL_UNSUPPORTED` naming what is not built, `MODEL_INVALID` if it does not fit the model.
    """
    given = _given(path)
    name = str(given.get("image_processor_type", given.get("feature_extractor_type", "CLIPImageProcessor")))
    if name not in _KNOWN:
        raise _unsupported(f"image processor {name}", "built are those of CLIP and SigLIP")
    config = _DEFAULTS["Siglip" if name.startswith("Siglip") else "CLIP"] | given
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not config.get(step, True):
            raise _unsupported(f"{step} false", "images come in every size")
    if config.get("do_pad"):
        raise _unsupported("do_pad", "built is cutting out the middle")
    size: Any = config["size"]
    crops = bool(config["do_center_crop"])
    size = {"shortest_edge": size} if isinstance(size, int) else size
    shortest = size.get("shortest_edge")
    if shortest is None and not (size.get("height") == size.get("width") == edge):
        raise _unsupported(f"size {size}", f"built are shortest_edge, or height and width of {edge}")
    if (shortest is not None and not crops) or size.get("longest_edge"):
        raise _unsupported(f"size {size} without a crop", "the model takes squares")
    if crops:
        crop: Any = config["crop_size"]
        cut = {crop} if isinstance(crop, int) else {crop.get("height"), crop.get("width")}
        if cut != {edge}:
            raise EngineError("MODEL_INVALID", f"{_FILE}: crop_size {crop}, but the vision tower takes {edge} pixels")
    try:
        resample = Image.Resampling(int(config.get("resample", Image.Resampling.BICUBIC)))
    except ValueError:
        raise _unsupported(f"resample {config['resample']}", "built are those of Pillow, 0 to 5") from None
    return Preprocessing(
        edge=edge,
        resize_shortest=None if shortest is None else int(shortest),
        crops=crops,
        resample=resample,
        factor=float(config.get("rescale_factor", 1 / 255)),
        mean=_channels(config["image_mean"], "image_mean"),
        std=_channels(config["image_std"], "image_std"),
    )


def _given(path: Path) -> dict[str, Any]:
    for name in (_FILE, _NESTED_FILE):
        try:
            tree = json.loads((path / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise EngineError("MODEL_INVALID", f"{path / name} cannot be read: {error}") from error
        found = tree if name == _FILE else tree.get("image_processor")
        if isinstance(found, dict):
            return cast("dict[str, Any]", found)
    raise EngineError("MODEL_INVALID", f"{path / _FILE} is missing: it says how images are prepared")


def _channels(given: object, name: str) -> tuple[float, ...]:
    values = tuple(float(one) for one in cast("list[float]", given)) if isinstance(given, list) else ()
    if len(values) != 3 or (name == "image_std" and 0.0 in values):
        raise EngineError("MODEL_INVALID", f"{_FILE}: {name} must be three numbers, it is {given!r}")
    return values


def _unsupported(what: str, mend: str) -> EngineError:
    return EngineError("MODEL_UNSUPPORTED", f"{_FILE}: {what} is not built ({mend})")
