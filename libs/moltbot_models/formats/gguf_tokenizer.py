"""Rebuilds tokenizer.json from the vocabulary in a GGUF file.

A GGUF file names its text splitter and holds no regular expression, so those are kept here. Byte-level vocabularies
come with their merges; a SentencePiece vocabulary has scores, of which the merges follow.

Source: llama.cpp, src/llama-vocab.cpp (which splitter a name stands for, which tokens end an answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Splitter:
    pattern: str | None = None
    """None: GPT-2's own."""
    composes: bool = False
    """Whether text is brought into the composed form (NFC) first."""
    whole_words: bool = False
    """Whether a word that is a token is taken whole, whatever the merges say."""
    single_digits: bool = False


_SPLITTERS = {
    "default": _Splitter(),
    "gpt-2": _Splitter(),
    "llama-bpe": _Splitter(_LLAMA_3, whole_words=True),
    "llama3": _Splitter(_LLAMA_3, whole_words=True),
    "llama-v3": _Splitter(_LLAMA_3, whole_words=True),
    "qwen2": _Splitter(_QWEN_2, composes=True),
    "deepseek-r1-qwen": _Splitter(_QWEN_2),
    "tekken": _Splitter(_TEKKEN, whole_words=True),
    "smollm": _Splitter(single_digits=True),
}
_END_TOKENS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|eom_id|>", "<|endoftext|>")
"""Control tokens that end an answer whatever the file's own entry says, as llama.cpp takes them."""
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


@dataclass(frozen=True, slots=True)
class ImportedTokenizer:
    """A tokenizer and what stands beside it in a Hugging Face directory."""

    tokenizer: Tokenizer
    config: dict[str, Any]
    """tokenizer_config.json."""
    begin_token: int | None
    end_tokens: list[int]


def import_tokenizer(metadata: Mapping[str, Any], rows: int) -> ImportedTokenizer:
    """Return the tokenizer of a file.

    Args:
        metadata: Of the file.
        rows: Of the embedding; no token may lie beyond.

    Raises:
        InvalidArgument: Naming the kind of tokenizer or splitter that is not built, or the entry that is damaged.
    """
    vocabulary = _Vocabulary(metadata, rows)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer, adds_begin = _byte_level(metadata, vocabulary)
    elif kind == "llama":
        tokenizer, adds_begin = _sentence_piece(metadata, vocabulary)
    else:
        raise InvalidArgument(f"tokenizer {kind} is not built (built are gpt2, which is byte-level BPE, and llama)")
    for special, number in ((True, _CONTROL), (True, _UNKNOWN), (False, _USER_DEFINED)):
        texts = [text for text, one in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if one == number and text]
        added = [AddedToken(text, normalized=False, special=special) for text in dict.fromkeys(texts)]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    begin, end = vocabulary.special("bos_token_id"), vocabulary.special("eos_token_id")
    adds_begin = bool(metadata.get("tokenizer.ggml.add_bos_token", adds_begin)) and begin is not None
    if adds_begin and begin is not None:
        text = vocabulary.tokens[begin]
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=["bos", "$A"],
            pair=["bos", "$A", "$B:1"],
            special_tokens=[{"id": "bos", "ids": [begin], "tokens": [text]}],
        )
    ends = [end, vocabulary.special("eot_token_id"), vocabulary.special("eom_token_id")]
    ends += [vocabulary.control(text) for text in _END_TOKENS]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_begin,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    for name, key in _SPECIAL.items():
        if (token := vocabulary.special(key)) is not None:
            config[name] = vocabulary.tokens[token]
    if (template := _template(metadata)) is not None:
        config["chat_template"] = template
    return ImportedTokenizer(tokenizer, config, begin, list(dict.fromkeys(one for one in ends if one is not None)))


class _Vocabulary:
    def __init__(self, metadata: Mapping[str, Any], rows: int) -> None:
        self._metadata = metadata
        self.tokens = _texts(metadata, "tokenizer.ggml.tokens")
        if not self.tokens or len(self.tokens) > rows:
            raise InvalidArgument(f"{len(self.tokens)} tokens for an embedding of {rows} rows; convert the model again")
        kinds = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(self.tokens)
        if len(kinds) != len(self.tokens):
            raise InvalidArgument("tokenizer.ggml.token_type is not as long as the tokens; convert the model again")
        self.kinds = cast("list[int]", kinds)
        # The first of two equal texts: the other can be answered by nothing and read by nobody.
        self.ids: dict[str, int] = {}
        for number, text in enumerate(self.tokens):
            self.ids.setdefault(text, number)

    def special(self, key: str) -> int | None:
        token = self._metadata.get(f"tokenizer.ggml.{key}")
        # Some writers put 2**32 - 1 for none.
        return token if type(token) is int and 0 <= token < len(self.tokens) else None

    def control(self, text: str) -> int | None:
        token = self.ids.get(text)
        return token if token is not None and self.kinds[token] == _CONTROL else None


def _byte_level(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> tuple[Tokenizer, bool]:
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    splitter = _SPLITTERS.get(name)
    if splitter is None:
        raise InvalidArgument(f"the text splitter {name} is not built (built are {', '.join(_SPLITTERS)})")
    merges = [_pair(text) for text in _texts(metadata, "tokenizer.ggml.merges")]
    ids = vocabulary.ids
    known = [pair for pair in merges if pair[0] in ids and pair[1] in ids and "".join(pair) in ids]
    if len(known) != len(merges):
        raise InvalidArgument("tokenizer.ggml.merges names tokens that do not exist; convert the model again")
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=splitter.whole_words))
    if splitter.composes:
        tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    parts: list[Any] = []
    if splitter.single_digits:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    if splitter.pattern is not None:
        parts.append(pre_tokenizers.Split(Regex(splitter.pattern), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitter.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer, splitter.pattern == _LLAMA_3


def _pair(text: str) -> tuple[str, str]:
    left, space, right = text.partition(" ")
    if not space or " " in right:
        raise InvalidArgument("tokenizer.ggml.merges holds what is not a pair; convert the model again")
    return left, right


def _sentence_piece(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> tuple[Tokenizer, bool]:
    scores = cast("list[float]", metadata.get("tokenizer.ggml.scores") or [])
    if len(scores) != len(vocabulary.tokens):
        raise InvalidArgument("tokenizer.ggml.scores is not as long as the tokens; convert the model again")
    unknown = vocabulary.special("unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary.ids,
            merges=_merges(vocabulary, scores),
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=any(kind == _BYTE for kind in vocabulary.kinds),
        )
    )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[Any] = [normalizers.Prepend("\u2581")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])  # pyright: ignore[reportAttributeAccessIssue]
    joined: list[Any] = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        joined.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(joined)  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer, True


def _merges(vocabulary: _Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """The pairs that make each token, the best token first.

    SentencePiece joins the neighbours whose union has the best score, so each way to cut a token in two is a merge.
    """
    ids = {
        text: number
        for text, number in vocabulary.ids.items()
        if vocabulary.kinds[number] in {_NORMAL, _USER_DEFINED} and text
    }
    found: list[tuple[float, int, int, str, str]] = []
    for text, number in ids.items():
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                found.append((-scores[number], left, right, text[:cut], text[cut:]))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _texts(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in cast("list[object]", value)):
        raise InvalidArgument(f"{key} is missing or no list of texts; convert the model again")
    return cast("list[str]", value)


def _template(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    key = "tokenizer.chat_template"
    default = metadata.get(key)
    named = {one.removeprefix(f"{key}."): text for one, text in metadata.items() if one.startswith(f"{key}.")}
    if not named:
        return default if isinstance(default, str) else None
    templates = ({"default": default} if isinstance(default, str) else {}) | named
    return [{"name": name, "template": str(text)} for name, text in templates.items()]
