from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_watermark.stream_embedder import StreamEmbedder, embed
from moltbot_watermark.unicode_mark import frame_text, strip

FRAME = frame_text(bytes(32), 1, 0x1234_5678)
SEEN = "⟦MARK⟧"
"""A frame that can be seen, for tests that say where it stands."""

PIECES = [
    "The quick brown fox", " jumps over", ". ", ", ", "\n", "\n\n", "\r\n", " ", "    ", "\t", "# ",
    "- ", "1. ", "> ", "| ", "```", "````", "~~~", "`", "``", "`code words here`",
    "\n```python\nimport this thing\n```\n", "\n~~~\nraw text here\n~~~\n", "{", "}", "[", "]", '"',
    "\\", '{"key": "some words here"}', '["one two", {"a": "b c"}]', "[link text](https://e.org/a b)",
    "https://example.com/some/path", "www.example.org", "mail@example.com", "src/main.py", "<", ">",
    "<b>", "</b>", "a < b", "<tool_call>", "</tool_call>", '<a href="x y">', "$x + y$", "$", "敏捷的狐狸",
    "，", "。", "跳过了懒狗", "2024年", "👩‍👩‍👧 family", "❤️", "é", "e\u0301", "\u200d", "\u0301",  # noqa: RUF001
    "नमस्ते दुनिया", "สวัสดีครับ", "مرحبا بالعالم", "don't stop", "3.14", "e.g. this", "true", "null",
]  # fmt: skip
documents = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=30).map("".join)
words = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "delta", "import", "return", "true"]), min_size=1, max_size=8
)
prose = st.sampled_from(["", "Here is something to look at:\n\n", "Some words before it\n", "- an item in a list\n"])


def streamed(text: str, cuts: list[int]) -> str:
    embedder = StreamEmbedder(FRAME)
    at, parts = 0, []
    for cut in sorted({min(cut, len(text)) for cut in cuts}):
        parts.append(embedder.feed(text[at:cut]))
        at = cut
    parts += [embedder.feed(text[at:]), embedder.finish()]
    return "".join(parts)


def shown(text: str) -> str:
    return embed(text, SEEN)


@given(documents, st.lists(st.integers(0, 400), max_size=20))
@settings(max_examples=400, deadline=None)
def test_borders_of_pieces_do_not_show_in_the_output(text: str, cuts: list[int]) -> None:
    assert streamed(text, cuts) == embed(text, FRAME)


@given(documents)
@settings(max_examples=200, deadline=None)
def test_one_character_at_a_time_gives_the_same_output(text: str) -> None:
    assert streamed(text, list(range(len(text)))) == embed(text, FRAME)


@given(st.one_of(documents, st.text()))
@settings(max_examples=400, deadline=None)
def test_stripping_gives_the_text_back(text: str) -> None:
    assert strip(embed(text, FRAME)) == text


@given(documents)
@settings(max_examples=300, deadline=None)
def test_a_frame_stands_only_between_a_plain_character_and_a_word_boundary(text: str) -> None:
    marked = embed(text, FRAME)
    at = marked.find(FRAME)
    while at >= 0:
        before, after = marked[at - 1], marked[at + len(FRAME) : at + len(FRAME) + 1]
        assert before.isalpha() or before in ".,!?;"
        assert not after or after.isspace() or unicodedata.category(after) in {"Po", "Ps", "Pe"}
        at = marked.find(FRAME, at + 1)


def json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return st.recursive(
        st.one_of(text, st.none(), st.booleans(), st.integers()),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
        max_leaves=12,
    )


@given(json_values(words.map(" ".join)), st.sampled_from([None, 2]))
@settings(max_examples=200, deadline=None)
def test_an_answer_in_json_carries_no_mark(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    assert embed(text, FRAME) == text


@given(json_values(st.text(max_size=12)).filter(lambda value: isinstance(value, list | dict)), prose)
@settings(max_examples=200, deadline=None)
def test_json_within_prose_carries_no_mark(value: object, before: str) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    marked = embed(f"{before}{text}\n\nAnd more words after it.", FRAME)
    assert text in marked


@given(
    st.lists(words.map(" ".join), max_size=6),
    st.sampled_from(["```", "~~~", "`````"]),
    prose,
    st.sampled_from(["", "> ", "  "]),
)
@settings(max_examples=200, deadline=None)
def test_a_fenced_block_carries_no_mark(lines: list[str], fence: str, before: str, indent: str) -> None:
    code = "".join(f"{indent}{line}\n" for line in [f"{fence}python", *lines, "", "``", *lines, fence])
    marked = embed(f"{before}{code}\nAnd more words after it.", FRAME)
    assert code in marked
    assert FRAME in marked.rpartition(code)[2]


@pytest.mark.parametrize(
    "opened", ["an interval [0, 1) of numbers", "it`s a lone tick", 'a 5" disk [the "old', "<b and no end", "a {"]
)
def test_a_fenced_block_after_something_left_open_carries_no_mark(opened: str) -> None:
    code = '```\nfoo bar ] } > ` "quoted words" here\n\nmore code words\n```\n'
    assert code in embed(f"{opened}\n{code}", FRAME)


@given(words, st.sampled_from(["`", "``", "```"]))
@settings(deadline=None)
def test_inline_code_carries_no_mark(code: list[str], ticks: str) -> None:
    span = ticks + " ".join(code) + ticks
    assert span in embed(f"Use {span} and see what happens then", FRAME)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a/b?c=d#e",
        "http://localhost:8080",
        "www.example.org",
        "example.com",
        "me@example.com",
        "mailto:me@example.com",
        "src/main/code.py",
        "C:\\Users\\me",
        "snake_case_name",
        "call(argument",
        "<https://example.com/in words>",
        "[two words](https://example.com)",
        "[a](/path 'with a title')",
    ],
)
def test_what_a_program_reads_carries_no_mark(url: str) -> None:
    text = f"We look at {url} and then at {url}\n\nAlso see {url}"
    marked = embed(text, FRAME)
    assert marked.count(url) == 3
    assert f"{url}{FRAME}" not in marked


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>\n{"name": "search", "arguments": {"query": "some words"}}\n</tool_call>',
        "<function=search>\n<parameter=query>\nsome plain words here\n</parameter>\n</function>",
        "<function_calls>\nsome plain words here\n\nand more\n</function_calls>",
        "<|tool_call|>some plain words here",
        '<img alt="some > plain words here">',
        "<pre>\nsome plain words here\n</pre>",
    ],
)
def test_tool_calls_and_tags_carry_no_mark(call: str) -> None:
    assert call in embed(f"Let me look that up for you.\n\n{call}", FRAME)


@pytest.mark.parametrize(
    "line",
    [
        "# A heading of plain words",
        "    an indented line of code",
        "\tan indented line of code",
        "| a cell | of plain words |",
    ],
)
def test_lines_with_a_form_of_their_own_carry_no_mark(line: str) -> None:
    assert shown(f"{line}\nand plain words here") == f"{line}\nand plain{SEEN} words here"


def test_lines_with_tex_carry_no_mark() -> None:
    assert SEEN not in shown("Then $a plus b$ follows from this line")


def test_each_paragraph_carries_one_mark() -> None:
    assert shown("First words of one.\nMore of it.\n\nSecond words of it.") == (
        f"First words{SEEN} of one.\nMore of it.\n\nSecond words{SEEN} of it."
    )


def test_chinese_is_marked_before_a_stop() -> None:
    assert shown("敏捷的棕色狐狸跳过了，然后睡觉。") == f"敏捷的棕色狐狸跳过了{SEEN}，然后睡觉。"  # noqa: RUF001


def test_chinese_with_digits_is_marked_at_the_next_clause() -> None:
    assert shown("在2024年的时候，我们做了很多事。") == f"在2024年的时候，我们做了很多事{SEEN}。"  # noqa: RUF001


def test_a_text_that_ends_with_its_first_word_is_marked_at_the_end() -> None:
    assert shown("Certainly.") == f"Certainly.{SEEN}"


@pytest.mark.parametrize("text", ["", "Yes.", "42", "true", "null", '"a string of words"', "   ", "👩‍👩‍👧❤️"])
def test_what_is_too_short_or_no_prose_stays_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_a_combining_mark_in_the_next_piece_keeps_its_letter() -> None:
    embedder = StreamEmbedder(SEEN)
    assert embedder.feed("some words cafe") + embedder.feed("\u0301 and") == f"some words{SEEN} cafe\u0301 and"
    embedder = StreamEmbedder(SEEN)
    assert embedder.feed("decafcafe") + embedder.feed("\u0301 and") + embedder.finish() == f"decafcafe\u0301 and{SEEN}"


def test_no_text_is_held_back() -> None:
    embedder = StreamEmbedder(SEEN)
    assert [embedder.feed(piece) for piece in ("some w", "ords", " here")] == ["some w", "ords", f"{SEEN} here"]


def test_a_finished_text_takes_no_more() -> None:
    embedder = StreamEmbedder(SEEN)
    embedder.finish()
    with pytest.raises(ValueError, match="finished"):
        embedder.feed("more")
