"""A compiled encoder and its tokenizer: encodings sorted by length, padded to buckets, run in small batches."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from moltbot_models.encoder.checkpoint import EncoderCheckpoint
from moltbot_models.encoder.config import EncoderConfig, EncoderError
from moltbot_models.encoder.graph import build_graph
from moltbot_models.encoder.memory import give_back
from moltbot_models.encoder.quantized import RANGES_FILE, read_ranges
from moltbot_models.encoder.rows import CHARACTERS_PER_TOKEN
from moltbot_models.encoder.shape import EncoderShape, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Encoding

    from moltbot_models.encoder.checkpoint import Rows
    from moltbot_models.encoder.shape import Head

_RUN_COST_TOKENS = 48
"""What a run costs besides its tokens, in tokens: where padding would cost more, two runs are made of one."""
_RUN_TOKENS = 256
"""Of one run of several rows, padding counted, at most: with it grow what lies between the layers and the shapes that
kernels are kept for. 1,024 would give many clients a seventh more texts a second, and take 17 MiB more."""
_FINE_STEPS = 8
"""Lengths of so many buckets are told apart one by one, those of up to twice as many in steps of two, and so on."""
_DEFAULT_MAX_TOKENS = 256


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
        self._shapes: set[tuple[int, int]] = set()
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
        compiled = compile_encoder(
            build_graph(shape, checkpoint, ranges=ranges),
            "f32" if config.precision == "f32" else "bf16",
            config.threads,
            path,
        )
        made = cls(compiled, tokenizer, shape, max_tokens, config, checkpoint)
        # The first run brings the matrices into the form that the arithmetic wants; no request waits for it.
        made.run([tokenizer.encode("a")])
        return made

    def run(self, rows: Sequence[Encoding]) -> NDArray[np.float32]:
        """Run the model over encodings, shortest first.

        Returns:
            float32 [rows, width of the output], in the order of the rows.
        """
        width = self.shape.labels or self.shape.hidden
        found = np.empty((len(rows), width), np.float32)
        lengths = [len(row.ids) for row in rows]
        order = np.argsort(lengths, kind="stable")
        widths = [self._width(lengths[index]) for index in order]
        begin = 0
        with self._lock:
            for end in partition(widths, self._config.batch_texts):
                chosen = order[begin:end]
                found[chosen] = self._infer([rows[index] for index in chosen], widths[end - 1])
                begin = end
        return found

    def _width(self, tokens: int) -> int:
        return min(bucket_of(tokens, self._config.bucket_tokens), self.shape.max_tokens)

    def _infer(self, rows: list[Encoding], width: int) -> NDArray[np.float32]:
        shape = row_class(len(rows), self._config.batch_texts), width
        ids = np.zeros(shape, np.int64)
        names = ["attention_mask", *(["token_type_ids"] if self.shape.takes_kinds else [])]
        inputs: dict[str, NDArray[Any]] = {name: np.zeros(shape, np.int64) for name in names}
        # Rows that fill the class up see one token: an attention over none would be no number.
        inputs["attention_mask"][len(rows) :, 0] = 1
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            inputs["attention_mask"][index, : len(row.ids)] = 1
            if self.shape.takes_kinds:
                inputs["token_type_ids"][index, : len(row.ids)] = row.type_ids
        inputs["words"] = self._words(ids)
        self._request.infer(inputs)
        if shape not in self._shapes:
            # Kernels were compiled, and may have taken matrices from the file in another form.
            self._shapes.add(shape)
            self._checkpoint.rest()
            give_back()
        # The output's memory belongs to the next call: the assignment that follows copies it.
        return self._request.get_output_tensor(0).data[: len(rows)]


def bucket_of(tokens: int, bucket: int) -> int:
    """Round a length up to one of few, since each shape costs up to a megabyte of compiled kernels.

    Beyond `_FINE_STEPS` buckets at most a quarter is lost. Source: jemalloc's size classes, 4 between powers of two.
    """
    step = bucket
    while tokens > _FINE_STEPS * step:
        step *= 2
    return max(1, -(-tokens // step)) * step


def row_class(rows: int, most: int) -> int:
    """Round the rows of a run up to a power of two, or to `most`: for the same reason."""
    return min(most, 1 << (rows - 1).bit_length())


def partition(widths: Sequence[int], most: int = 16) -> list[int]:
    """Cut rows that are sorted by width into runs of least cost: padded tokens, and what each run costs besides.

    Args:
        widths: Of the rows, padded; the rows of a run are filled up to `row_class`.
        most: Rows of a run.

    Returns:
        Where each run ends; the last is the number of rows.
    """
    least = [0.0]
    begins: list[int] = []
    for end in range(1, len(widths) + 1):
        choices = [
            (least[begin] + _RUN_COST_TOKENS + widths[end - 1] * row_class(end - begin, most), begin)
            for begin in range(max(0, end - _most_rows(widths[end - 1], most)), end)
        ]
        cost, begin = min(choices)
        least.append(cost)
        begins.append(begin)
    ends: list[int] = []
    place = len(widths)
    while place:
        ends.append(place)
        place = begins[place - 1]
    return ends[::-1]


def _most_rows(width: int, most: int) -> int:
    """Rows of a run, whose class keeps to `_RUN_TOKENS`."""
    fit = max(1, _RUN_TOKENS // width)
    return most if fit >= most else 1 << (fit.bit_length() - 1)


def compile_encoder(model: ov.Model, precision: Literal["bf16", "f32"], threads: int, path: Path) -> ov.CompiledModel:
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
