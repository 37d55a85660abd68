"""Reads a stateful OpenVINO IR, as optimum-intel and openvino-genai export decoders, and gives it a paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.paged_attention import make_paged, parameter
from moltbot_models.engine.paged_model import INPUTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IR_FILE = "openvino_model.xml"
_HEAD_STEPS = frozenset({"Convert", "Add", "Multiply", "Divide", "Tanh", "Reshape"})
"""What may stand between the head's product and the logits: a bias, a scale, a soft cap."""


@dataclass(frozen=True, slots=True)
class Ir:
    """A paged graph with the inputs of `PagedModel`."""

    model: ov.Model
    vocabulary: int
    context_length: int
    parameters: int


def read_ir(path: Path, config: Mapping[str, Any], context_length: int | None) -> Ir:
    """Read `openvino_model.xml` and `.bin` and replace the state by the paged cache.

    Args:
        path: The directory.
        config: config.json; says how long a context may be, which the IR does not.
        context_length: Tokens of prompt and answer; None takes the model's own limit.

    Raises:
        EngineError: `MODEL_INVALID` for damaged files, `MODEL_UNSUPPORTED` for a graph that cannot be paged,
            `INVALID_ARGUMENT` for a context length beyond the model's own.
    """
    file = path / IR_FILE
    length = _context_length(config, context_length)
    try:
        model = ov.Core().read_model(file)
    except RuntimeError as error:
        raise EngineError("MODEL_INVALID", f"{file} cannot be read, copy or export it again: {_line(error)}") from error
    states = len(model.get_variables())
    if not states:
        raise EngineError("MODEL_UNSUPPORTED", f"{file} has no state: export it as stateful (optimum-cli's default)")
    inputs = {port.any_name for port in model.inputs}
    if "input_ids" not in inputs:
        raise EngineError(
            "MODEL_UNSUPPORTED", f"{file} takes {', '.join(sorted(inputs))} and no input_ids: not a decoder"
        )
    try:
        make_paged(model)
    except RuntimeError as error:
        raise EngineError("MODEL_UNSUPPORTED", f"the attention of {file} cannot be paged: {_line(error)}") from error
    if left := sum(node.get_type_name() == "ReadValue" for node in model.get_ops()):
        raise EngineError(
            "MODEL_UNSUPPORTED", f"{file} keeps {left} of {states} states besides keys and values, which is not built"
        )
    odd = {port.any_name for port in model.inputs if "_cache." not in port.any_name} - set(INPUTS)
    if odd:
        raise EngineError("MODEL_UNSUPPORTED", f"{file} needs the inputs {', '.join(sorted(odd))}, which are not built")
    vocabulary = _gather_sampled(model, file)
    parameters = sum(
        int(np.prod(list(node.get_output_shape(0))))
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1
    )
    return Ir(model, vocabulary, length, parameters)


def _context_length(config: Mapping[str, Any], wanted: int | None) -> int:
    own = config.get("max_position_embeddings")
    if not isinstance(own, int) or own < 2:
        raise EngineError("MODEL_INVALID", f"config.json: max_position_embeddings must be an integer, it is {own!r}")
    if wanted is not None and wanted > own:
        raise EngineError("INVALID_ARGUMENT", f"context_length {wanted} is beyond the model's limit of {own} tokens")
    length = wanted or own
    window = config.get("sliding_window")
    if isinstance(window, int) and config.get("use_sliding_window", True) and window < length:
        raise EngineError(
            "MODEL_UNSUPPORTED",
            f"config.json: sliding_window {window} is not built; a context_length of at most {window} does without it",
        )
    return length


def _gather_sampled(model: ov.Model, file: Path) -> int:
    """Let the head work on the rows named by `sampled_tokens_indices` alone; return the size of the vocabulary."""
    result = next((one for one in model.get_results() if "logits" in one.output(0).get_names()), None)
    result = result or next((one for one in model.get_results() if "logits" in one.input_value(0).get_names()), None)
    if result is None:
        raise EngineError("MODEL_UNSUPPORTED", f"{file} has no output named logits: not a decoder")
    last = list(result.input_value(0).get_partial_shape())[-1]
    if not last.is_static:
        raise EngineError("MODEL_UNSUPPORTED", f"{file}: the size of the vocabulary is not fixed; export it again")
    vocabulary = cast("int", last.get_length())
    head = result.input_value(0).get_node()
    while head.get_type_name() in _HEAD_STEPS:
        head = head.input_value(0).get_node()
    if head.get_type_name() != "MatMul":
        raise EngineError("MODEL_UNSUPPORTED", f"{file}: the logits come of {head.get_type_name()}, not of a product")
    sampled = parameter("sampled_tokens_indices", ov.Type.i64, [-1])
    rows = ops.gather(head.input_value(0), sampled, ops.constant(np.int64(0)))
    head.input(0).replace_source_output(rows.output(0))
    flat = ops.reshape(result.input_value(0), ops.constant(np.array([-1, vocabulary])), special_zero=False)
    result.input_value(0).get_tensor().set_names(set())
    flat.output(0).get_tensor().set_names({"logits"})
    result.input(0).replace_source_output(flat.output(0))
    model.add_parameters([sampled])
    model.validate_nodes_and_infer_types()
    return vocabulary


def _line(error: RuntimeError) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
