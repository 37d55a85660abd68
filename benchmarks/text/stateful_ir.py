"""Writes the same model as a stateful OpenVINO IR, as openvino-genai reads it: same weights, same precision.

    stateful_ir.py MODEL OUT u8

Runs in the baseline's environment (benchmarks/requirements.txt): the tokenizer's conversion needs transformers.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant
from openvino.op.util import Variable, VariableInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "libs"))

from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.graph import _Builder
from moltbot_models.engine.paged_attention import parameter
from moltbot_models.engine.rope import rotary_tables
from moltbot_models.engine.safetensors import Checkpoint

ZERO = np.int64(0)


def numbers(*values: int):
    return ops.constant(np.array(values))


class Stateful(_Builder):
    """The engine's graph with caches as variables and attention as scaled dot product."""

    def model(self) -> ov.Model:
        a = self._a
        self._ids = parameter("input_ids", ov.Type.i64, [-1, -1])
        self._mask = parameter("attention_mask", ov.Type.i64, [-1, -1])
        positions = parameter("position_ids", ov.Type.i64, [-1, -1])
        self._beam = parameter("beam_idx", ov.Type.i32, [-1])
        self._sinks = []
        embedding = self._matrix("model.embed_tokens.weight", a.vocabulary, a.hidden_size)
        head = embedding if a.tied_head else self._matrix("lm_head.weight", a.vocabulary, a.hidden_size)
        hidden = embedding.rows(ops.convert(self._ids, ov.Type.i32))
        turn = tuple(
            ops.unsqueeze(ops.gather(Constant(table), positions, ops.constant(ZERO)), numbers(1))
            for table in rotary_tables(a.rope, a.head_size, a.context_length)
        )
        seen = self._seen()
        for layer in range(a.layers):
            hidden = self._mlp(layer, self._attend(layer, hidden, turn, seen))
        hidden = self._norm(hidden, "model.norm.weight", a.hidden_size)
        logits = ops.matmul(hidden, head.factor(), transpose_a=False, transpose_b=True)
        logits.output(0).get_tensor().set_names({"logits"})
        return ov.Model([ops.result(logits)], self._sinks, [self._ids, self._mask, positions, self._beam], a.family)

    def _attend(self, layer: int, hidden, turn, seen):
        a, prefix = self._a, f"model.layers.{layer}.self_attn"
        x = self._norm(hidden, f"model.layers.{layer}.input_layernorm.weight", a.hidden_size)
        size = a.head_size

        def heads(name: str, count: int):
            flat = self._linear(x, f"{prefix}.{name}_proj", count * size, a.hidden_size, bias=a.qkv_bias)
            return ops.transpose(ops.reshape(flat, numbers(0, 0, count, size), special_zero=True), numbers(0, 2, 1, 3))

        query, key, value = heads("q", a.heads), heads("k", a.kv_heads), heads("v", a.kv_heads)
        key = self._kept(f"past_key_values.{layer}.key", self._turned(key, turn))
        value = self._kept(f"past_key_values.{layer}.value", value)
        mixed = ops.scaled_dot_product_attention(
            self._turned(query, turn), self._repeated(key), self._repeated(value), seen
        )
        joined = ops.reshape(
            ops.transpose(mixed, numbers(0, 2, 1, 3)), numbers(0, 0, a.heads * size), special_zero=True
        )
        out = self._linear(joined, f"{prefix}.o_proj", a.hidden_size, a.heads * size, bias=a.output_bias)
        return ops.add(hidden, out)

    def _turned(self, x, turn):
        size = self._a.head_size

        def part(begin: int, end: int):
            return ops.slice(x, *(numbers(number) for number in (begin, end, 1, 3)))

        other = ops.concat([ops.multiply(part(size // 2, 2**63 - 1), np.float32(-1)), part(0, size // 2)], axis=-1)
        return ops.add(ops.multiply(x, turn[0]), ops.multiply(other, turn[1]))

    def _repeated(self, x):
        a = self._a
        shape = ops.shape_of(x)
        sizes = [ops.gather(shape, numbers(axis), ops.constant(ZERO)) for axis in range(4)]
        target = ops.concat([*sizes[:2], numbers(a.heads // a.kv_heads), *sizes[2:]], axis=0)
        wide = ops.broadcast(ops.unsqueeze(x, numbers(2)), target)
        return ops.reshape(wide, numbers(0, a.heads, -1, a.head_size), special_zero=True)

    def _kept(self, name: str, new):
        a, info = self._a, VariableInfo()
        info.data_shape, info.data_type = ov.PartialShape([-1, a.kv_heads, -1, a.head_size]), ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        batch = ops.gather(ops.shape_of(self._ids), numbers(0), ops.constant(ZERO))
        empty = ops.broadcast(np.float32(0), ops.concat([batch, numbers(a.kv_heads, 0, a.head_size)], axis=0))
        past = ops.gather(ops.read_value(empty, variable), self._beam, ops.constant(ZERO))
        whole = ops.concat([past, new], axis=2)
        self._sinks.append(ops.assign(whole, variable))
        return whole

    def _seen(self):
        zero, one = ops.constant(ZERO), ops.constant(np.int64(1))
        total = ops.gather(ops.shape_of(self._mask), one, zero)
        new = ops.gather(ops.shape_of(self._ids), one, zero)
        keys = ops.unsqueeze(ops.range(zero, total, one, ov.Type.i64), zero)
        queries = ops.unsqueeze(ops.range(ops.subtract(total, new), total, one, ov.Type.i64), one)
        causal = ops.unsqueeze(ops.less_equal(keys, queries), numbers(0, 1))
        real = ops.convert(ops.unsqueeze(self._mask, numbers(1, 2)), ov.Type.boolean)
        return ops.select(ops.logical_and(causal, real), np.float32(0), np.float32(-65504))


def main() -> None:
    source, out, precision = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    architecture = read_architecture(json.loads((source / "config.json").read_text()), None)
    model = Stateful(architecture, Checkpoint(source), precision).model()
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=False)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(source / name, out)
    from openvino_tokenizers import convert_tokenizer  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), eos_token="<|im_end|>")
    for converted, name in zip(
        convert_tokenizer(tokenizer, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True
    ):
        ov.save_model(converted, out / f"openvino_{name}.xml")


if __name__ == "__main__":
    main()
