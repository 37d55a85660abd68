"""What config.json says of a LLaVA model's eyes; the rest of vision-language models is refused by name.

Source: Liu et al. 2023, Visual Instruction Tuning, arXiv:2304.08485; `LlavaForConditionalGeneration` of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.text_config import LLAVA, text_config

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal["gelu", "gelu_pytorch_tanh", "quick_gelu"]
Tower = Literal["clip", "siglip"]
_ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_pytorch_tanh", "quick_gelu")
_TILES = ("image_grid_pinpoints", "mm_patch_merge_type", "use_image_newline_parameter")
"""Settings of models that cut an image into tiles."""
_SMALL = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": _SMALL
    | {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": _SMALL
    | {"image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
"""What transformers assumes where a file is silent."""
_TOWERS: dict[str, Tower] = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}


@dataclass(frozen=True, slots=True)
class VisionShape:
    """A vision tower of the CLIP shape and the two layers that lead into the text model."""

    tower: Tower
    hidden: int
    intermediate: int
    heads: int
    image_size: int
    """Pixels of an edge; images are square by then."""
    patch_size: int
    activation: Activation
    norm_epsilon: float
    features: tuple[int, ...]
    """Hidden states that are taken, side by side: 0 is the embeddings, n what layer n gives."""
    drops_first: bool
    """Whether the first position is left out: CLIP's class token."""
    text_hidden: int
    projector_activation: Activation
    projector_bias: bool
    image_token: int
    """Stands in a prompt where an image does."""

    @property
    def layers(self) -> int:
        """Layers that are computed: what lies behind the last feature is never read."""
        return max(self.features)

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def positions(self) -> int:
        """Positions within the tower: the patches, and CLIP's class token."""
        return self.patches + (self.tower == "clip")

    @property
    def tokens(self) -> int:
        """Tokens that an image takes of a prompt."""
        return self.positions - self.drops_first


def read_vision(config: Mapping[str, Any], text_hidden: int, vocabulary: int) -> VisionShape | None:
    """Return what config.json describes; None for a model of text alone.

    Args:
        config: Of the whole model.
        text_hidden: Numbers in a row of the text model.
        vocabulary: Rows of its embedding.

    Raises:
        EngineError: `MODEL_UNSUPPORTED` naming what is not built, `MODEL_INVALID` for impossible numbers.
    """
    if LLAVA not in cast("list[str]", config.get("architectures") or []):
        return None
    given = cast("dict[str, Any]", config.get("vision_config") or {})
    kind = str(given.get("model_type", "none"))
    if kind not in _TOWERS:
        raise _unsupported(f"vision_config.model_type {kind}", f"built are {', '.join(_TOWERS)}")
    for name in _TILES:
        if config.get(name):
            raise _unsupported(name, "an image is one square here, never tiles")
    vision = _DEFAULTS[kind] | {key: value for key, value in given.items() if value is not None}
    if vision.get("num_channels", 3) != 3:
        raise _unsupported(f"vision_config.num_channels {vision['num_channels']}", "built is 3")
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in {"default", "full"}:
        raise _unsupported(f"vision_feature_select_strategy {strategy}", "built are default and full")
    shape = VisionShape(
        tower=_TOWERS[kind],
        hidden=_number(vision, "hidden_size"),
        intermediate=_number(vision, "intermediate_size"),
        heads=_number(vision, "num_attention_heads"),
        image_size=_number(vision, "image_size"),
        patch_size=_number(vision, "patch_size"),
        activation=_activation(vision["hidden_act"], "vision_config.hidden_act"),
        norm_epsilon=float(vision["layer_norm_eps"]),
        features=_features(config.get("vision_feature_layer", -2), _number(vision, "num_hidden_layers")),
        drops_first=strategy == "default",
        text_hidden=text_hidden,
        projector_activation=_activation(config.get("projector_hidden_act", "gelu"), "projector_hidden_act"),
        projector_bias=bool(config.get("multimodal_projector_bias", True)),
        image_token=_token(config, vocabulary),
    )
    if shape.hidden % shape.heads or shape.image_size < shape.patch_size:
        raise EngineError("MODEL_INVALID", "config.json: vision_config's heads or patches do not fit its sizes")
    return shape


def image_rows(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many tokens an image takes and how many numbers each of its rows has; None for a model of text alone.

    Raises:
        EngineError: As `read_vision`, or for a text part that is not built.
    """
    if text_config(config) is config:
        return None
    text = read_architecture(config, None)
    shape = read_vision(config, text.hidden_size, text.vocabulary)
    return None if shape is None else (shape.tokens, shape.text_hidden)


def _token(config: Mapping[str, Any], vocabulary: int) -> int:
    token = config.get("image_token_index", config.get("image_token_id", 32000))
    if type(token) is not int or not 0 <= token < vocabulary:
        raise EngineError("MODEL_INVALID", f"config.json: image_token_index {token!r} is none of {vocabulary} tokens")
    return token


def _features(given: object, layers: int) -> tuple[int, ...]:
    wanted = cast("list[object]", given) if isinstance(given, list) else [given]
    found: list[int] = []
    for one in wanted:
        if type(one) is not int or not -layers - 1 <= one <= layers:
            raise EngineError("MODEL_INVALID", f"config.json: vision_feature_layer {one!r} is none of {layers} layers")
        found.append(one if one >= 0 else layers + 1 + one)
    if not found:
        raise EngineError("MODEL_INVALID", "config.json: vision_feature_layer names no layer")
    return tuple(found)


def _activation(name: object, where: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise _unsupported(f"{where} {name}", f"built are {', '.join(_ACTIVATIONS)}")
    return name


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise EngineError("MODEL_INVALID", f"config.json: vision_config.{key} must be a positive integer: {value!r}")
    return value


def _unsupported(what: str, mend: str) -> EngineError:
    return EngineError("MODEL_UNSUPPORTED", f"config.json: {what} is not built ({mend})")
