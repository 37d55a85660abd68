"""A text model is not told half of what was said."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.prompting import build_prompt
from moltbot_models.generation import GenerationRequest, Media, Message


def test_an_image_is_refused_and_not_left_out():
    look = Message("user", "What is this?", parts=("What is this?", Media("image", b"\x89PNG", "image/png")))
    with pytest.raises(EngineError, match="takes text alone") as refused:
        build_prompt(Mock(), GenerationRequest("m", (look,)), 10, 10)
    assert refused.value.reason == "INVALID_ARGUMENT"
