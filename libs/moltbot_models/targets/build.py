"""From a manifest to a model repository of a target."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import moltbot_models
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models.engine.config import EngineError
from moltbot_models.manifest import engine_options
from moltbot_models.store.placing import spec_of
from moltbot_models.targets import configs
from moltbot_models.triton.repository import triton_name, write_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moltbot_models.encoder import Classifier, Encoder
    from moltbot_models.encoder.calibrate import EncoderTask
    from moltbot_models.gate.encoder import EncoderBounds
    from moltbot_models.gate.report import GateReport
    from moltbot_models.gate.scores import ScoreBounds
    from moltbot_models.gate.texts import GateTexts
    from moltbot_models.manifest import Manifest

    Progress = Callable[[str, float], None]

Target = Literal["triton-cpu", "triton-ort-trt", "triton-trt", "triton-vllm", "triton-trtllm"]
TARGETS: tuple[Target, ...] = get_args(Target)
_OF_TASK: Mapping[str, tuple[Target, ...]] = {
    "text-generation": ("triton-cpu", "triton-vllm", "triton-trtllm"),
    "embedding": ("triton-cpu", "triton-ort-trt", "triton-trt"),
    "rerank": ("triton-cpu", "triton-ort-trt", "triton-trt"),
    "classification": ("triton-cpu", "triton-ort-trt", "triton-trt"),
}


def build(
    manifest: Manifest,
    target: Target,
    out: Path,
    digest: str,
    texts: GateTexts,
    bounds: EncoderBounds | ScoreBounds | None = None,
    progress: Progress | None = None,
) -> GateReport | None:
    """Write a model repository. Blocks; INT8 for a GPU is calibrated and judged here, on ONNX Runtime.

    Args:
        manifest: Of a local model.
        target: What is to serve it.
        out: A directory that does not exist or is empty.
        digest: Of the model's files, for the report.
        texts: To judge on, and to calibrate with unless that was done when the model was added.
        bounds: What the gate demands.
        progress: Told what is at work and the share that is done.

    Returns:
        The gate's report of a quantised encoder; None where nothing was quantised here.

    Raises:
        InvalidArgument: The target does not serve such a model, or `out` is not empty.
        FailedPrecondition: The extra `compile` is not installed, or the directory cannot be written.
        GateFailed: INT8 strays too far from FP32: nothing is written.
        EngineError: The model cannot be read.
    """
    if target not in _OF_TASK[manifest.task]:
        there = ", ".join(_OF_TASK[manifest.task])
        raise InvalidArgument(f"{target} does not serve {manifest.task}; targets for it are {there}")
    if out.exists() and any(out.iterdir()):
        raise InvalidArgument(f"{out}: is not empty; give a directory of its own")
    if target == "triton-cpu":
        write_repository(out, [spec_of(manifest)])
        return None
    if target in {"triton-ort-trt", "triton-trt"}:
        return _encoder(manifest, target, out, digest, texts, bounds, progress)
    name, path = triton_name(manifest.id), Path(manifest.path)
    length = manifest.context_length
    if target == "triton-vllm":
        arguments = {"model": str(path), "gpu_memory_utilization": 0.9, "enable_prefix_caching": True}
        arguments |= {"max_model_len": length} if length else {}
        if manifest.marks:
            arguments |= {"logits_processors": ["moltbot_mark:MarkProcessor"]}
            _write_mark(out / name / "1" / "moltbot_mark")
        _write(out / name / "1" / "model.json", json.dumps(arguments, indent=2) + "\n")
        _write(out / name / "config.pbtxt", configs.vllm(name))
        _write(out / "serve.sh", configs.openai_frontend_script(name, path, "vllm", marked=manifest.marks))
    else:
        lines = [
            f"model: {json.dumps(str(path))}",
            'backend: "pytorch"',
            *([f"max_seq_len: {length}"] if length else []),
        ]
        _write(out / "model.yaml", "\n".join(lines) + "\n")
        _write(out / "build.sh", configs.trtllm_script(name))
        _write(out / "serve.sh", configs.openai_frontend_script(name, path, "trtllm"))
    _write(out / "manifest.yaml", _upstream(manifest, name))
    return None


def _encoder(
    manifest: Manifest,
    target: Target,
    out: Path,
    digest: str,
    texts: GateTexts,
    bounds: EncoderBounds | ScoreBounds | None,
    progress: Progress | None,
) -> GateReport | None:
    from moltbot_models.encoder import Classifier, Encoder, EncoderConfig  # noqa: PLC0415 - brings OpenVINO
    from moltbot_models.encoder.calibrate import calibrate  # noqa: PLC0415
    from moltbot_models.encoder.checkpoint import EncoderCheckpoint  # noqa: PLC0415
    from moltbot_models.encoder.quantized import read_ranges  # noqa: PLC0415
    from moltbot_models.encoder.runtime import weights_sha256  # noqa: PLC0415
    from moltbot_models.targets.onnx_encoder import build_onnx, onnx_module  # noqa: PLC0415

    onnx = onnx_module()
    path, options = Path(manifest.path), engine_options(manifest)
    config, task = EncoderConfig.of(options), cast("EncoderTask", manifest.task)
    checkpoint = EncoderCheckpoint(path / "model.safetensors")
    kind = Encoder if task == "embedding" else Classifier
    exact = kind.load(path, EncoderConfig("f32", threads=config.threads))
    shape = exact.runtime.shape
    if task == "rerank" and shape.labels != 1:
        raise EngineError("MODEL_UNSUPPORTED", f"reranking needs a model of one class, this has {shape.labels}")
    activation, labels = ("identity", ()) if isinstance(exact, Encoder) else (exact.activation, exact.labels)
    report, groups = None, None
    if config.precision == "int8" and config.ranges is not None:  # found when the model was added
        groups = read_ranges(config.ranges, weights_sha256(path / "model.safetensors")).groups
    elif config.precision == "int8":
        groups = calibrate(path, texts.calibration, task=task, threads=config.threads, progress=progress).groups
    model = build_onnx(shape, checkpoint, groups, activation)
    if groups is not None:
        report = _judged(manifest.id, digest, model, exact, texts, bounds, progress)
        report.require()
    facts = configs.EncoderFacts(
        name=triton_name(manifest.id),
        task=task,
        width=shape.labels or shape.hidden,
        max_tokens=exact.runtime.max_tokens,
        bucket_tokens=config.bucket_tokens,
        queue_delay_us=int(options.get("queue_delay_us", "0")),
        int8=groups is not None,
        takes_kinds=shape.takes_kinds,
        labels=labels if task == "classification" else (),
    )
    parts = out / f"{facts.name}-tokenizer", out / f"{facts.name}-encoder"
    library = str(Path(moltbot_models.__file__).absolute().parent.parent)
    template = resources.files("moltbot_models.triton").joinpath("model.py.template").read_text("utf-8")
    _write(parts[0] / "1" / "model.py", template)
    _write(parts[0] / "config.pbtxt", configs.tokenizer(facts, library, str(path.absolute())))
    # Triton wants the version's directory of an ensemble to be there, empty.
    _write(out / facts.name / "1" / ".keep", "")
    _write(out / facts.name / "config.pbtxt", configs.ensemble(facts))
    if target == "triton-ort-trt":
        _write(parts[1] / "config.pbtxt", configs.onnx_tensorrt(facts))
        file = parts[1] / "1" / "model.onnx"
    else:
        _write(parts[1] / "config.pbtxt", configs.tensorrt(facts))
        _write(parts[1] / "1" / ".keep", "")
        _write(out / "build.sh", configs.trtexec_script(facts))
        file = parts[1] / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(file))
    if report is not None:
        _write(out / "gate.json", report.to_json())
    return report


def _write_mark(folder: Path) -> None:
    """The package that vLLM loads: the processor, and the numbers that it shares with our engine."""
    processor = resources.files("moltbot_models.targets").joinpath("vllm_mark.py.template").read_text("utf-8")
    numbers = resources.files("moltbot_models.engine").joinpath("plain_mark.py").read_text("utf-8")
    _write(folder / "__init__.py", processor)
    _write(folder / "numbers.py", numbers)


def _judged(
    model_id: str,
    digest: str,
    model: Any,
    exact: Encoder | Classifier,
    texts: GateTexts,
    bounds: EncoderBounds | ScoreBounds | None,
    progress: Progress | None,
) -> GateReport:
    """What a QDQ model answers on ONNX Runtime beside the encoder in FP32."""
    from moltbot_models.encoder import Encoder  # noqa: PLC0415 - brings OpenVINO
    from moltbot_models.gate.encoder import EncoderUnderTest, judge_encoder  # noqa: PLC0415
    from moltbot_models.gate.scores import ClassifierUnderTest, judge_scores  # noqa: PLC0415
    from moltbot_models.targets.onnx_run import QuantizedClassifier, runner  # noqa: PLC0415

    run, named = runner(model), "int8 (QDQ)"
    if isinstance(exact, Encoder):
        subject = EncoderUnderTest(
            model_id, digest, named, lambda some: run(exact.rows(some)), lambda some: exact.embed(some)[0]
        )
        return judge_encoder(subject, texts.calibration, texts.held_out, cast("EncoderBounds | None", bounds), progress)
    pair = ClassifierUnderTest(model_id, digest, named, QuantizedClassifier(exact, run), exact)
    return judge_scores(pair, texts.calibration, texts.held_out, cast("ScoreBounds | None", bounds), progress)


def _upstream(manifest: Manifest, name: str) -> str:
    """How the mesh reaches what `serve.sh` serves: `moltbot model add` does the same from its URL."""
    lines = [
        "# serve.sh listens on 127.0.0.1:9000; put this into the router's manifests, or: moltbot model add URL.",
        "models:",
        f"- id: {json.dumps(manifest.id)}",
        "  type: text-generation",
        "  provider: openai",
        "  endpoint: http://127.0.0.1:9000/v1",
        f"  upstream_model: {json.dumps(name)}",
    ]
    return (
        "\n".join([*lines, *([f"  context_length: {manifest.context_length}"] if manifest.context_length else [])])
        + "\n"
    )


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        if file.suffix == ".sh":
            file.chmod(0o755)
    except OSError as error:
        raise FailedPrecondition(f"{file}: cannot be written: {error.strerror}") from None
