from __future__ import annotations

import sys
from pathlib import Path

# Recipes are scripts, not part of the installed packages.
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "recipes"))
