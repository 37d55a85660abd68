"""Mixes the weights of two models of this recipe: `python recipes/tiny_model/mix.py NEW OLD --share 0.92 --out DIR`.

What was trained on from OLD keeps a little of what it forgot. Source: Wortsman et al., "Robust fine-tuning of zero-shot
models" (2022).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

_WEIGHTS = "model.safetensors"


def main() -> None:
    """Write a directory like NEW with the mixed weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new", type=Path)
    parser.add_argument("old", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the new weights, 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    new, old = (load_file(directory / _WEIGHTS) for directory in (arguments.new, arguments.old))
    share: float = arguments.share
    mixed = {name: (share * new[name].float() + (1 - share) * old[name].float()).bfloat16() for name in new}
    shutil.copytree(arguments.new, arguments.out)  # refuses to write over a model
    save_file(mixed, arguments.out / _WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
