from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.detokenize import Detokenizer, StopStrings, Vocabulary
from moltbot_testkit.random_model import byte_tokenizer

TOKENIZER = byte_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)


@given(st.text(max_size=40).filter(lambda text: "<|" not in text))
def test_text_survives_tokens_of_single_bytes(text):
    detokenizer = Detokenizer(VOCABULARY)
    pieces = [detokenizer.push(token) for token in TOKENIZER.encode(text).ids]
    assert "".join(pieces) + detokenizer.finish() == text
    assert all("\ufffd" not in piece for piece in pieces if "\ufffd" not in text)


def test_a_character_appears_with_its_last_byte():
    detokenizer = Detokenizer(VOCABULARY)
    assert [detokenizer.push(token) for token in TOKENIZER.encode("é€").ids] == ["", "é", "", "", "€"]


def test_an_answer_cut_within_a_character_ends_with_a_replacement():
    detokenizer = Detokenizer(VOCABULARY)
    assert detokenizer.push(TOKENIZER.encode("€").ids[0]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_special_tokens_are_no_text_unless_a_parser_reads_them():
    end = TOKENIZER.token_to_id("<|im_end|>")
    assert Detokenizer(VOCABULARY).push(end) == ""
    assert Detokenizer(VOCABULARY, frozenset([end])).push(end) == "<|im_end|>"


def test_sentencepiece_tokens_become_spaces_and_bytes():
    tokenizer = Tokenizer(models.BPE(vocab={"▁hi": 0, "<0xC3>": 1, "<0xA9>": 2}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    detokenizer = Detokenizer(Vocabulary(tokenizer))
    assert "".join(detokenizer.push(token) for token in (0, 1, 2)) == " hié"


def test_an_unknown_decoder_is_refused_by_name():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(EngineError, match="WordPiece") as refused:
        Vocabulary(tokenizer)
    assert refused.value.reason == "MODEL_UNSUPPORTED"


@given(st.text("abX", max_size=30), st.lists(st.text("abX", min_size=1, max_size=4), max_size=3), st.data())
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text, stops, data):
    filtering = StopStrings(stops)
    out, rest = "", text
    while rest and not filtering.stopped:
        size = data.draw(st.integers(1, len(rest)))
        out += filtering.push(rest[:size])
        rest = rest[size:]
        assert not any(stop in out for stop in stops)
    if not filtering.stopped:
        out += filtering.finish()
    # The stop that is complete first ends the answer, at the earliest place where one stands then.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if not ends:
        assert out == text
        assert not filtering.stopped
    else:
        assert filtering.stopped
        assert any(text.startswith(out + stop) for stop in stops)
