"""A compiled encoder and its tokenizer: encodings sorted by length and run in small batches."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from moltbot_models.encoder.checkpoint import EncoderCheckpoint
from moltbot_models.encoder.config import EncoderConfig, EncoderError
from moltbot_models.encoder.graph import build_graph
from moltbot_models.encoder.memory import give_back
from moltbot_models.encoder.quantized import RANGES_FILE, read_ranges
from moltbot_models.encoder.rows import CHARACTERS_PER_TOKEN
from moltbot_models.encoder.runs import STEP_TOKENS, cut, packed
from moltbot_models.encoder.shape import EncoderShape, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from moltbot_models.encoder.checkpoint import Rows
    from moltbot_models.encoder.processor import FloatPrecision
    from moltbot_models.encoder.runs import Row
    from moltbot_models.encoder.shape import Head

_DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class _OneToken:
    ids: list[int] = field(default_factory=lambda: [0])
    type_ids: list[int] = field(default_factory=lambda: [0])


class EncoderRuntime:
    """One encoder on this machine's CPU; made by `load`. Thread-safe: calls take turns.

    Attributes:
        shape: The model's numbers.
        tokenizer: Neither pads nor cuts; `max_tokens` is for who uses it.
        max_tokens: Of one row.
        characters: More of a text than this is never read.
    """

    def __init__(
        self,
        compiled: ov.CompiledModel,
        tokenizer: Tokenizer,
        shape: EncoderShape,
        max_tokens: int,
        config: EncoderConfig,
        checkpoint: EncoderCheckpoint,
    ) -> None:
        self.shape = shape
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.characters = CHARACTERS_PER_TOKEN * max_tokens
        self._config = config
        self._checkpoint = checkpoint
        self._words = word_table(checkpoint, shape, tokenizer)
        self._shapes: set[tuple[int, ...]] = set()
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path, head: Head, config: EncoderConfig) -> EncoderRuntime:
        """Read a directory and compile its model. Blocks for about half a second.

        Raises:
            EncoderError: The directory is damaged, holds another kind of model or, for int8, no ranges.
        """
        try:
            shape = EncoderShape.read(path, head)
            max_tokens = min(_max_tokens(path, head, shape), shape.max_tokens)
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except EncoderError as error:
            raise EncoderError(f"{path}: {error}") from error
        except Exception as error:  # tokenizers raises plain Exception for a damaged file
            raise EncoderError(f"{path}: tokenizer.json cannot be read: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        weights = path / "model.safetensors"
        ranges = None
        if config.precision == "int8":
            ranges = read_ranges(config.ranges or path / RANGES_FILE, weights_sha256(weights)).groups
        checkpoint = EncoderCheckpoint(weights)
        graph = build_graph(shape, checkpoint, ranges=ranges)
        compiled = compile_encoder(graph, config.arithmetic, config.threads, path)
        made = cls(compiled, tokenizer, shape, max_tokens, config, checkpoint)
        # The first run brings the matrices into the form that the arithmetic wants; no request waits for it.
        made.run([_OneToken()])
        return made

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Run the model over encodings, shortest first.

        Returns:
            float32 [rows, width of the output], in the order of the rows; zeros for one without a token.
        """
        found = np.zeros((len(rows), self.shape.labels or self.shape.hidden), np.float32)
        lengths = np.array([len(row.ids) for row in rows])
        order = np.argsort(lengths, kind="stable")[np.count_nonzero(lengths == 0) :]
        ends = cut(
            lengths[order].tolist(),
            most=self._config.batch_texts,
            bucket=self._config.bucket_tokens,
            longest=self.shape.max_tokens,
            hidden=self.shape.hidden,
        )
        with self._lock:
            for begin, end in itertools.pairwise([0, *ends]):
                chosen = order[begin:end]
                found[chosen] = self._infer([rows[index] for index in chosen])
        return found

    def _infer(self, rows: list[Row]) -> NDArray[np.float32]:
        ids, inputs = packed(
            rows,
            most=self._config.batch_texts,
            bucket=self._config.bucket_tokens,
            step=STEP_TOKENS[self._config.arithmetic],
            longest=self.shape.max_tokens,
            kinds=self.shape.takes_kinds,
        )
        self._request.infer({**inputs, "words": self._words(ids)})
        shape = ids.size, *inputs["token_at"].shape
        if shape not in self._shapes:
            # Kernels were compiled, and may have taken matrices from the file in another form.
            self._shapes.add(shape)
            self._checkpoint.rest()
            give_back()
        # The output's memory belongs to the next call: the assignment that follows copies it.
        return self._request.get_output_tensor(0).data[: len(rows)]


def compile_encoder(model: ov.Model, precision: FloatPrecision, threads: int, path: Path) -> ov.CompiledModel:
    """Compile a graph of `build_graph`; layers with ranges run in INT8 whatever the precision of the others.

    Raises:
        EncoderError: OpenVINO refuses it.
    """
    settings: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        return ov.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise EncoderError(f"{path}: OpenVINO cannot compile the encoder: {error}") from error


def word_table(checkpoint: EncoderCheckpoint, shape: EncoderShape, tokenizer: Tokenizer) -> Rows:
    """The words' embeddings: from numbers of tokens, i64 [...], to f32 [..., hidden].

    Raises:
        EncoderError: It is not there, or has no row for a token of the tokenizer.
    """
    if tokenizer.get_vocab_size() > shape.vocabulary:
        raise EncoderError(
            f"tokenizer.json has {tokenizer.get_vocab_size()} tokens, config.json a vocab_size of {shape.vocabulary}; "
            "they belong to different models"
        )
    return checkpoint.rows("embeddings.word_embeddings.weight", shape.vocabulary, shape.hidden)


def weights_sha256(file: Path) -> str:
    """The hash by which ranges know their weights.

    Raises:
        EncoderError: The file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"{file}: not a readable safetensors file; copy it again") from error


def _max_tokens(path: Path, head: Head, shape: EncoderShape) -> int:
    config = read_json(path / "sentence_bert_config.json")
    if config is None:
        return _DEFAULT_MAX_TOKENS if head == "embedding" else shape.max_tokens
    value = config.get("max_seq_length")
    if type(value) is not int or value < 2:
        raise EncoderError("sentence_bert_config.json: max_seq_length must be an integer of at least 2")
    return value
