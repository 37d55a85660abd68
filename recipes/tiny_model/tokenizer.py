"""The tokeniser: byte-level BPE with digits in pairs, and the files that describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny_model import words
from tiny_model.skills import prose, sql_lookup, units

if TYPE_CHECKING:
    from collections.abc import Iterable

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, START, END)
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
# A word that can be a value is a token run of its own, the space before it another token, so that it reads the same in a
# sentence and in the quotes of a call: copying never has to spell. Closed classes and the words of stories, which are
# never copied into a call, keep their space.
_CLOSED = """a about after again all am an and any are as at be but by can could did do does every for from get give had has have
he her here him his how i if in into is it its just let like make many me more much my need no not now of off on one or our out over please
shall she should show so some tell than thank that the their them then there these they this to under until up us want was we well
were what when where which who whose why will with would you your"""
# Digits come in pairs: a number is half as long, and a pair in it seldom the same as another.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| (?:{words})(?!\p{L})|\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def pattern() -> str:
    """The regular expression that cuts text before BPE: GPT-2's, with the changes said above."""
    stories = " ".join([*prose.TOPICS, *prose.TOPICS.values(), *prose.ADJECTIVES, *prose.VERBS, *prose.INTRANSITIVE])
    copied = " ".join([*sql_lookup.TABLES, *sql_lookup.COLUMNS, *map(" ".join, units.KINDS)])
    joined = {*_CLOSED.split(), *stories.split()} - {*copied.split(), *words.COLORS, *words.THINGS, *words.ANIMALS}
    joined.add("in")  # also the sign of inches, but seldom
    return _PATTERN.replace("{words}", "|".join(sorted(joined)))


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a tokeniser of `size` tokens; the special tokens and tags come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern()), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*SPECIAL, *TAGS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def save(tokenizer: Tokenizer, out: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    whole = json.loads(tokenizer.to_str())
    for added in whole["added_tokens"]:
        # Tags are text to a reader of the answer; only the frame of a turn is invisible.
        added["special"] = added["content"] in SPECIAL
    (out / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
    added = {
        str(entry["id"]): {
            key: entry[key] for key in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        }
        for entry in whole["added_tokens"]
    }
    config = {
        "added_tokens_decoder": added,
        "additional_special_tokens": [START, END],
        "bos_token": None,
        "chat_template": TEMPLATE.read_text(),
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n")
