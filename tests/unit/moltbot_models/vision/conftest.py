from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def files():
    """The golden images by name."""
    described = json.loads((GOLDEN / "images.json").read_text())
    return {name: base64.b64decode(text) for name, text in described["files"].items()}
