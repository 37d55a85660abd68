"""An engine gets the same options wherever it runs."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from moltbot_models.manifest import Manifest
from moltbot_models.providers.engines import EngineKey
from moltbot_models.store.placing import spec_of

MODEL = Manifest(
    "m", "text-generation", "embedded", path="/m", context_length=64, options=MappingProxyType({"kv": "u8"})
)


def test_the_context_that_a_manifest_grants_reaches_the_engine_in_triton_and_in_process():
    expected = {"kv": "u8", "context_length": "64"}
    assert spec_of(MODEL).options == expected
    assert dict(EngineKey.of(MODEL).options) == expected
    assert EngineKey.of(MODEL).path == Path("/m")
