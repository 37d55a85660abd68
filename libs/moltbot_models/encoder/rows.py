"""Texts and pairs of texts to what a model is run on; without OpenVINO, so that engines of others have it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Encoding, Tokenizer

CHARACTERS_PER_TOKEN = 64
"""What is read of a text for each token that the model takes: the tokenizer goes through all that it is given, and
keeps the first few hundred tokens. A token has about 4 characters; more than this many come of blanks alone."""


def text_rows(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[Encoding]:
    """Encode texts by themselves, each cut to `limit` tokens with the special ones."""
    rows = _read(tokenizer, texts, limit)
    for row in rows:
        row.truncate(limit - tokenizer.num_special_tokens_to_add(is_pair=False))
    return [tokenizer.post_process(row) for row in rows]


def pair_rows(tokenizer: Tokenizer, query: str, documents: Sequence[str], limit: int) -> list[Encoding]:
    """Encode documents behind their query; a document that is too long is cut, the query never.

    Raises:
        EngineError: `REQUEST_TOO_LARGE` if the query leaves no room for a document.
    """
    (asked,) = _read(tokenizer, [query], limit)
    room = limit - len(asked.ids) - tokenizer.num_special_tokens_to_add(is_pair=True)
    if room < 1:
        raise EngineError(
            "REQUEST_TOO_LARGE",
            f"the query has {len(asked.ids)} tokens and leaves no room for a document in the model's {limit}",
        )
    rows = _read(tokenizer, documents, limit)
    for row in rows:
        row.truncate(room)
    return [tokenizer.post_process(asked, row) for row in rows]


def by_query(queries: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each query with the texts beside it; neighbours with the same query, as a request's mostly are, stay together."""
    begin = 0
    for end in range(1, len(texts) + 1):
        if end == len(texts) or queries[end] != queries[begin]:
            yield queries[begin], texts[begin:end]
            begin = end


def _read(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[Encoding]:
    read = [text[: CHARACTERS_PER_TOKEN * limit] for text in texts]
    return tokenizer.encode_batch(read, add_special_tokens=False) if read else []
