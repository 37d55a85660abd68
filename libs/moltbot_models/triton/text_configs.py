"""The parts of config.pbtxt that say what text models take and give: alone, or behind eyes as an ensemble.

Source: triton-inference-server/server docs, model_configuration.md, ensemble_models.md and decoupled_models.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BATCH_REQUESTS = 8
"""Requests whose images are encoded together."""
_REQUEST = '{ name: "REQUEST" data_type: TYPE_STRING dims: [ 1 ] }'
_DELTAS = '{ name: "DELTAS" data_type: TYPE_STRING dims: [ 1 ] }'


def text_body(image_rows: tuple[int, int] | None = None) -> list[str]:
    """A text model that answers piece by piece.

    Args:
        image_rows: Tokens of an image and numbers in a row, if images come encoded beside the request.
    """
    taken = [f"input [ {_REQUEST} ]"]
    if image_rows is not None:
        taken = ["input [", f"  {_REQUEST},", *_rows(image_rows), "]"]
    # The engine batches by itself at every step, so Triton must not.
    return ["max_batch_size: 0", "model_transaction_policy { decoupled: true }", *taken, f"output [ {_DELTAS} ]"]


def vision_body(image_rows: tuple[int, int], delay_us: str) -> list[str]:
    """The eyes: Triton gathers requests, of which each may have any number of images."""
    return [
        f"max_batch_size: {MAX_BATCH_REQUESTS}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}",
        f"input [ {_REQUEST} ]",
        "output [",
        *_rows(image_rows),
        "]",
    ]


def ensemble(name: str, seeing: str, telling: str) -> str:
    """The whole text of an ensemble that takes and gives what a text model alone does.

    Args:
        name: Its own.
        seeing: The name of the eyes.
        telling: The name of the text model.
    """
    rows = {"ROWS": "rows", "DIGESTS": "digests"}
    return "\n".join(
        [
            f"name: {json.dumps(name)}",
            'platform: "ensemble"',
            *text_body(),
            "ensemble_scheduling { step [",
            *_step(seeing, {"REQUEST": "REQUEST"}, rows),
            "  },",
            *_step(telling, {"REQUEST": "REQUEST", **rows}, {"DELTAS": "DELTAS"}),
            "  }",
            "] }",
            "",
        ]
    )


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> list[str]:
    """A step, its brace left open."""
    lines = ["  {", f"    model_name: {json.dumps(model)}", "    model_version: -1"]
    for kind, pairs in (("input_map", inputs), ("output_map", outputs)):
        lines += [f'    {kind} {{ key: "{key}" value: "{value}" }}' for key, value in pairs.items()]
    return lines


def _rows(image_rows: tuple[int, int]) -> list[str]:
    """The tensors between eyes and text: of each image its rows and its digest."""
    tokens, width = image_rows
    return [
        f'  {{ name: "ROWS" data_type: TYPE_FP32 dims: [ -1, {tokens}, {width} ] }},',
        '  { name: "DIGESTS" data_type: TYPE_UINT8 dims: [ -1, 32 ] }',
    ]
