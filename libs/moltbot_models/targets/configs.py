"""The config.pbtxt files of compiled targets, and the scripts that run in NVIDIA's containers.

Source: triton-inference-server docs: model_configuration.md, architecture.md (ensembles), onnxruntime_backend README
(TensorRT accelerator), tensorrt_backend, vllm_backend README; TensorRT trtexec.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.triton.repository import LABELS, MAX_BATCH_TEXTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moltbot_models.encoder.calibrate import EncoderTask

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""GPU generations from Turing to Blackwell; a plan fits the one it was built on."""
_USUAL_TEXTS, _USUAL_TOKENS = 8, 64
_MARK_STEP = """# The mark: MOLTBOT_MARK_KEYS names a file {"NAME": "64 hexadecimal digits"}, MOLTBOT_MARK_DEFAULT the
# key of requests that name none. vLLM's workers import the processor from where this Python looks.
: "${MOLTBOT_MARK_KEYS:?give the file of keys}"
export MOLTBOT_MARK_KEYS MOLTBOT_MARK_DEFAULT="${MOLTBOT_MARK_DEFAULT:-}" VLLM_USE_V2_MODEL_RUNNER=0
cp -R "$here"/@NAME/1/moltbot_mark "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/"
"""


@dataclass(frozen=True, slots=True)
class EncoderFacts:
    """What the configurations of one encoder need."""

    name: str
    """Of the ensemble, as clients ask for it; the parts are named after it."""
    task: EncoderTask
    width: int
    """Numbers a text: dimensions of its vector, or classes."""
    max_tokens: int
    bucket_tokens: int
    queue_delay_us: int
    int8: bool
    takes_kinds: bool = False
    """Whether token types tell the first text of a pair from the second."""
    labels: tuple[str, ...] = ()
    """The classes' names, for classification."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The ensemble's inputs."""
        return ("QUERY", "TEXT") if self.task == "rerank" else ("TEXT",)

    @property
    def answer(self) -> str:
        """The ensemble's output beside TOKENS."""
        return "EMBEDDING" if self.task == "embedding" else "SCORES"

    @property
    def inputs(self) -> Mapping[str, str]:
        """The engine's inputs, with the tokenizer's outputs that they come from."""
        kinds = {"token_type_ids": "TOKEN_TYPE_IDS"} if self.takes_kinds else {}
        return {"input_ids": "INPUT_IDS", "attention_mask": "ATTENTION_MASK"} | kinds

    @property
    def output(self) -> str:
        """The engine's output."""
        return "embedding" if self.task == "embedding" else "scores"


def ensemble(facts: EncoderFacts) -> str:
    """Texts to vectors or scores with the tensor names that every encoder of the mesh has."""
    steps = {
        f"{facts.name}-tokenizer": (
            {name: name for name in facts.texts},
            {made: taken for taken, made in facts.inputs.items()} | {"TOKENS": "TOKENS"},
        ),
        f"{facts.name}-encoder": ({name: name for name in facts.inputs}, {facts.output: facts.answer}),
    }
    lines = [
        f"name: {json.dumps(facts.name)}",
        'platform: "ensemble"',
        f"max_batch_size: {MAX_BATCH_TEXTS}",
        _texts(facts),
        "output [",
        f'  {{ name: "{facts.answer}" data_type: TYPE_FP32 dims: [ {facts.width} ] }},',
        '  { name: "TOKENS" data_type: TYPE_INT32 dims: [ 1 ] }',
        "]",
        "ensemble_scheduling {",
    ]
    for model, (inputs, outputs) in steps.items():
        maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items()]
        maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items()]
        lines += [
            f"  step {{ model_name: {json.dumps(model)} model_version: -1",
            *(f"    {one}" for one in maps),
            "  }",
        ]
    labels = {LABELS: json.dumps(facts.labels, ensure_ascii=False)} if facts.labels else {}
    return "\n".join([*lines, "}", *_parameters(labels)]) + "\n"


def tokenizer(facts: EncoderFacts, library: str, path: str) -> str:
    """The Python model before the engine."""
    parameters = {
        "bucket_tokens": str(facts.bucket_tokens),
        "library_path": library,
        "max_tokens": str(facts.max_tokens),
        "path": path,
        "task": "tokenizer",
        **({"head": "rerank"} if facts.task == "rerank" else {}),
        **({"kinds": "true"} if facts.takes_kinds else {}),
    }
    made = [*facts.inputs.values()]
    return "\n".join(
        [
            f'name: "{facts.name}-tokenizer"',
            'backend: "python"',
            f"max_batch_size: {MAX_BATCH_TEXTS}",
            _texts(facts),
            "output [",
            *(f'  {{ name: "{name}" data_type: TYPE_INT64 dims: [ -1 ] }},' for name in made),
            '  { name: "TOKENS" data_type: TYPE_INT32 dims: [ 1 ] }',
            "]",
            "instance_group [ { count: 1 kind: KIND_CPU } ]",
            *_parameters(parameters),
        ]
    ) + "\n"  # fmt: skip


def onnx_tensorrt(facts: EncoderFacts) -> str:
    """ONNX Runtime with TensorRT below it, which builds and keeps its engine on first use."""
    options = {
        "precision_mode": "INT8" if facts.int8 else "FP16",
        "max_workspace_size_bytes": str(1 << 30),
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": f"/tmp/{facts.name}-engines",  # noqa: S108 - within the container
    }
    lines = [f'      parameters {{ key: "{key}" value: {json.dumps(value)} }}' for key, value in options.items()]
    return "\n".join(
        [
            *_encoder(facts, "onnxruntime"),
            "optimization {",
            "  execution_accelerators {",
            '    gpu_execution_accelerator [ { name: "tensorrt"',
            *lines,
            "    } ]",
            "  }",
            "}",
        ]
    ) + "\n"  # fmt: skip


def tensorrt(facts: EncoderFacts) -> str:
    """A plan for each kind of GPU, built by `trtexec_script`."""
    plans = [
        f'cc_model_filenames {{ key: "{capability}" value: "{_plan(capability)}" }}'
        for capability in COMPUTE_CAPABILITIES
    ]
    return "\n".join([*_encoder(facts, "tensorrt"), *plans]) + "\n"


def trtexec_script(facts: EncoderFacts) -> str:
    """Builds the plan for the GPU at hand; for NVIDIA's TensorRT or Triton container."""

    def shapes(texts: int, tokens: int) -> str:
        return ",".join(f"{name}:{texts}x{tokens}" for name in facts.inputs)

    usual = min(_USUAL_TOKENS, facts.max_tokens)
    precision = "--int8 --fp16" if facts.int8 else "--fp16"
    folder = shlex.quote(f"{facts.name}-encoder")
    return f"""#!/bin/sh
# Builds the TensorRT plan for the GPU of this machine. Run it where trtexec is, such as NVIDIA's TensorRT container, of
# the release that Triton's container has: a plan fits one version of TensorRT and one kind of GPU.
set -eu
cd "$(dirname "$0")"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d ' ')
plan={folder}/1/model-sm$(printf %s "$capability" | tr -d .).plan
trtexec --onnx={folder}/model.onnx --saveEngine="$plan.new" {precision} \\
  --minShapes={shapes(1, 1)} \\
  --optShapes={shapes(_USUAL_TEXTS, usual)} \\
  --maxShapes={shapes(MAX_BATCH_TEXTS, facts.max_tokens)}
mv "$plan.new" "$plan"
echo "built $plan"
"""


def vllm(name: str) -> str:
    """VLLM's own backend, which batches by itself."""
    return f'name: {json.dumps(name)}\nbackend: "vllm"\ninstance_group [ {{ count: 1 kind: KIND_MODEL }} ]\n'


def openai_frontend_script(name: str, path: Path, container: str, *, marked: bool = False) -> str:
    """Serves a repository with Triton's OpenAI-compatible front end; `marked` with the sampling mark in vLLM."""
    before = _MARK_STEP.replace("@NAME", shlex.quote(name)) if marked else ""
    return f"""#!/bin/sh
# Serves {name} with Triton's OpenAI-compatible front end, in the container
# nvcr.io/nvidia/tritonserver:<yy.mm>-{container}-python-py3.
# Listens on this machine alone: put the mesh before it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
{before}cd /opt/tritonserver/python/openai
exec python3 openai_frontend/main.py --model-repository "$here" --tokenizer {shlex.quote(str(path))} \\
  --host 127.0.0.1 --openai-port "${{PORT:-9000}}"
"""


def trtllm_script(name: str) -> str:
    """Takes NVIDIA's model for the LLM API into the repository and gives it our settings."""
    folder = shlex.quote(name)
    return f"""#!/bin/sh
# Completes the repository with NVIDIA's Triton model for TensorRT-LLM's LLM API. Give the path of a TensorRT-LLM source
# tree of the version that the container has (python3 -c 'import tensorrt_llm; print(tensorrt_llm.__version__)').
set -eu
[ $# -eq 1 ] || {{ echo "usage: $0 TENSORRT-LLM-SOURCE" >&2; exit 64; }}
source=$1/triton_backend/all_models/llmapi/tensorrt_llm
[ -d "$source" ] || {{ echo "$source: not there; is this a TensorRT-LLM source tree?" >&2; exit 66; }}
cd "$(dirname "$0")"
mkdir -p {folder}
cp -R "$source/." {folder}/
cp model.yaml {folder}/1/model.yaml
sed -i 's/^name: .*/name: "{name}"/' {folder}/config.pbtxt
"""


def _encoder(facts: EncoderFacts, backend: str) -> list[str]:
    integers = ", ".join(f'{{ name: "{name}" data_type: TYPE_INT64 dims: [ -1 ] }}' for name in facts.inputs)
    return [
        f'name: "{facts.name}-encoder"',
        f'backend: "{backend}"',
        f"max_batch_size: {MAX_BATCH_TEXTS}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {facts.queue_delay_us} }}",
        f"input [ {integers} ]",
        f'output [ {{ name: "{facts.output}" data_type: TYPE_FP32 dims: [ {facts.width} ] }} ]',
        "instance_group [ { count: 1 kind: KIND_GPU } ]",
    ]


def _texts(facts: EncoderFacts) -> str:
    taken = ", ".join(f'{{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }}' for name in facts.texts)
    return f"input [ {taken} ]"


def _plan(capability: str) -> str:
    return f"model-sm{capability.replace('.', '')}.plan"


def _parameters(parameters: Mapping[str, str]) -> list[str]:
    return [
        f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}"
        for key, value in sorted(parameters.items())
    ]
