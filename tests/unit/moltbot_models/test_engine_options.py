"""An engine gets the same options wherever it runs."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from moltbot_models.engine.config import checked
from moltbot_models.engine.options import config_of
from moltbot_models.manifest import Manifest
from moltbot_models.providers.engines import EngineKey
from moltbot_models.store.placing import spec_of
from moltbot_models.triton.repository import checked_options

MODEL = Manifest(
    "m", "text-generation", "embedded", path="/m", context_length=64, options=MappingProxyType({"kv": "u8"})
)


def test_the_context_that_a_manifest_grants_reaches_the_engine_in_triton_and_in_process():
    expected = {"kv": "u8", "context_length": "64"}
    assert spec_of(MODEL).options == expected
    assert dict(EngineKey.of(MODEL).options) == expected
    assert EngineKey.of(MODEL).path == Path("/m")


@pytest.mark.parametrize(
    ("options", "chunk"),
    [({}, 56), ({"compute": "bf16"}, 120), ({"compute": "bf16", "chunk_tokens": "0"}, 0), ({"chunk_tokens": "7"}, 7)],
)
def test_a_chunk_is_the_precisions_unless_it_is_set_in_triton_and_in_process(options, chunk):
    assert checked(config_of(options)).chunk_tokens == chunk
    assert checked_options("m", "text-generation", options)["chunk_tokens"] == str(chunk)
