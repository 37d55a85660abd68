from __future__ import annotations

import itertools
import json
import math
import random
import re
from pathlib import Path

import jinja2
import numpy as np
import pytest
from tiny_model import cases, conversation, dialogues, evaluate, frames, grammar, offers, packing, validation, words
from tiny_model.conversation import Said, Setting
from tiny_model.skills import asking, calculator, clock, facts, memory, prose, sql_lookup, talk, units
from tiny_model.tokenizer import TEMPLATE
from tokenizers import Tokenizer

from moltbot_models.engine.model_directory import read_model_directory
from moltbot_models.engine.tool_calls import HermesToolCalls
from moltbot_models.generation import Delta, Sampling, TokenLogprob, ToolCallDelta

SHIPPED = Path(__file__).resolve().parents[3] / "libs/moltbot_models/shipped/tiny"
PHRASINGS = {
    "calculator": (calculator.WRITTEN, calculator.HELD_OUT_WRITTEN),
    "calculator in words": ([p for p, _ in calculator.DIRECT], [p for p, _ in calculator.HELD_OUT_DIRECT]),
    "clock": (clock.PLACED, clock.HELD_OUT_PLACED),
    "clock here": (clock.HERE, clock.HELD_OUT_HERE),
    "units": (units.CALLS, units.HELD_OUT_CALLS),
    "sql_lookup": (sql_lookup.CALLS, sql_lookup.HELD_OUT_CALLS),
    "told": (facts.ANY_TOLD, facts.ANY_TOLD_HELD_OUT),
    "asked": ([*facts.ANY_ASKED, *asking.ASKED[""]], facts.ANY_ASKED_HELD_OUT),
    **{f"{kind.label} told": (kind.told, kind.told_held_out) for kind in facts.KINDS},
    **{f"{kind.label} asked": ([*kind.asked, *asking.ASKED[kind.label]], kind.asked_held_out) for kind in facts.KINDS},
    "tasks": (talk.TASKS, talk.HELD_OUT_TASKS),
    "knowledge": (talk.KNOWLEDGE, talk.HELD_OUT_KNOWLEDGE),
    "prose": (prose.ASKED, prose.HELD_OUT_ASKED),
    **{f"talk {known[0]}": (known, unknown) for known, unknown, _ in talk.SMALL},
}
VALIDATION = {
    "calculator": validation.CALLS["calculator"],
    "clock": validation.CALLS["clock"],
    "units": validation.CALLS["convert_units"],
    "sql_lookup": validation.CALLS["sql_lookup"],
    "told": validation.ANY_TOLD,
    "asked": validation.ANY_ASKED,
    **{f"{label} told": told for label, (told, _) in validation.KINDS.items()},
    **{f"{label} asked": asked for label, (_, asked) in validation.KINDS.items()},
}
VALUES = {
    "names": (words.NAMES, words.HELD_OUT_NAMES),
    "cities": (words.CITIES, words.HELD_OUT_CITIES),
    "colors": (words.COLORS, words.HELD_OUT_COLORS),
    "foods": (words.FOODS, words.HELD_OUT_FOODS),
    "jobs": (words.JOBS, words.HELD_OUT_JOBS),
    "hobbies": (words.HOBBIES, words.HELD_OUT_HOBBIES),
    "tables": (sql_lookup.TABLES, sql_lookup.HELD_OUT_TABLES),
    "columns": (sql_lookup.COLUMNS, sql_lookup.HELD_OUT_COLUMNS),
    "attributes": (facts.ATTRIBUTES, facts.HELD_OUT_ATTRIBUTES),
}


def rendered(messages: list[Said], setting: Setting, **options: object) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    system = [{"role": "system", "content": setting.system}] if setting.system else []
    return environment.from_string(TEMPLATE.read_text()).render(
        messages=[*system, *(message.openai() for message in messages)], tools=setting.tools or None, **options
    )


def drawn(seed: int, count: int) -> list[tuple[dialogues.Scene, list[Said]]]:
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        there = dialogues.scene(rng)
        out.append((there, dialogues.conversation(rng, there)))
    return out


def test_the_same_seed_makes_the_same_conversations() -> None:
    assert drawn(7, 50) == drawn(7, 50)
    assert drawn(7, 50) != drawn(8, 50)


def leaks(known: list[str], kept: list[str]) -> list[tuple[str, str]]:
    """What of `kept` can come out of a phrasing of `known`, and of which."""
    bare = [phrasing.rstrip(".?!") for phrasing in known]
    patterns = [grammar.matcher(phrasing) for phrasing in bare]
    return [
        (unknown, phrasing)
        for one in kept
        for unknown in grammar.skeletons(one.rstrip(".?!"))
        for phrasing, pattern in zip(bare, patterns, strict=True)
        if pattern.fullmatch(unknown)
    ]


@pytest.mark.parametrize("skill", PHRASINGS)
def test_no_held_out_phrasing_can_come_out_of_a_trained_one(skill: str) -> None:
    assert leaks(*PHRASINGS[skill]) == []


def test_words_for_any_attribute_never_become_those_held_out_for_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ANY_ASKED", ["[Do|Will] you still have my {a}?"])
    rng = random.Random(23)
    asked = {memory.fact(rng, held_out_phrasing=False, held_out_values=False).asked for _ in range(4000)}
    assert "Do you still have my name?" in facts.KINDS[0].asked_held_out
    assert "Do you still have my name?" not in asked
    assert {"Will you still have my name?", "Do you still have my age?"} <= asked


@pytest.mark.parametrize("skill", VALIDATION)
def test_checkpoints_are_chosen_by_phrasings_neither_trained_on_nor_held_out(skill: str) -> None:
    known, held_out = PHRASINGS[skill]
    assert leaks([*known, *held_out], VALIDATION[skill]) == []


def test_validation_asks_for_every_tool_and_recalls_what_was_told() -> None:
    made = list(validation.cases(random.Random(8), 40))
    assert {case.skill for case in made} == {f"call {tool}" for tool in offers.NAMES} | {
        "recall",
        "recall from memory line",
    }
    for case in made:
        if case.skill == "recall":
            assert case.contains in "".join(said.text for said in case.said if said.role == "user")
        elif case.skill == "recall from memory line":
            assert case.contains in case.setting.system


@pytest.mark.parametrize("kind", VALUES)
def test_held_out_values_are_not_trained_on(kind: str) -> None:
    known, held_out = VALUES[kind]
    assert {value.lower() for value in known} & {value.lower() for value in held_out} == set()


def test_drawn_tables_columns_and_attributes_are_none_of_those_held_out() -> None:
    rng = random.Random(21)
    drawn_tables = [sql_lookup.tables(rng) for _ in range(3000)]
    names = {table for tables in drawn_tables for table in tables}
    columns = {column for tables in drawn_tables for one in tables.values() for column in one}
    keys = {memory.fact(rng, held_out_phrasing=False, held_out_values=False).key for _ in range(3000)}
    assert not names & set(sql_lookup.HELD_OUT_TABLES)
    assert not columns & set(sql_lookup.HELD_OUT_COLUMNS)
    assert not keys & set(facts.HELD_OUT_ATTRIBUTES)
    assert min(len(names), len(columns), len(keys)) > 500, "an open vocabulary, not a list"


def test_a_loose_sentence_holds_its_parts_whole_and_in_order() -> None:
    rng = random.Random(22)
    for _ in range(300):
        parts = ["order_items", "12.5 feet", "ZX-204"]
        text = frames.loose(rng, parts)
        places = [text.index(part) for part in parts]
        assert places == sorted(places)


def test_a_matcher_accepts_all_that_its_phrasing_becomes() -> None:
    phrasing = "[Can|Could] you [tell|show] me {e}"
    assert len(grammar.skeletons(phrasing)) == 4
    assert all(grammar.matcher(phrasing).fullmatch(one) for one in grammar.skeletons(phrasing))
    assert not grammar.matcher(phrasing).fullmatch("Could you give me {e}")


def test_every_phrasing_fills_all_its_slots() -> None:
    texts = [said.text for _, messages in drawn(3, 2000) for said in messages if said.role == "user"]
    assert [text for text in texts if re.search(r"\{[a-z]\w?\}|\[[^\]]*\|", text)] == []


def test_the_chat_template_renders_what_the_model_was_trained_on() -> None:
    for there, messages in drawn(11, 200):
        trained = conversation.head(there.setting) + "".join(text for text, _ in conversation.pieces(messages))
        assert rendered(messages, there.setting) == trained


def test_the_chat_template_ends_with_the_assistants_turn_when_asked_to() -> None:
    assert rendered([Said("user", "Hi")], Setting(""), add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_chat_template_shows_tools_calls_and_results() -> None:
    setting = Setting("Be kind.", [offers.offer("convert_units", "Convert.")])
    call = ("convert_units", {"value": 5, "from_unit": "miles", "to_unit": "km"})
    messages = [Said("user", "5 miles in km?"), Said("assistant", "", call), Said("tool", "8.04672 km")]
    assert rendered(messages, setting, add_generation_prompt=True) == (
        "<|im_start|>system\nBe kind.\n<tools>\n"
        '{"name": "convert_units", "description": "Convert.", '
        '"parameters": {"value": "number", "from_unit": "string", "to_unit": "string"}}\n'
        "</tools><|im_end|>\n"
        "<|im_start|>user\n5 miles in km?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "convert_units", '
        '"arguments": {"value": 5, "from_unit": "miles", "to_unit": "km"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n8.04672 km\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_results_of_one_step_share_a_turn() -> None:
    text = rendered([Said("tool", "1"), Said("tool", "2")], Setting(""))
    assert text == (
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )


def test_calls_are_read_by_the_engine_as_they_were_meant() -> None:
    calls = [said.call for _, messages in drawn(5, 300) for said in messages if said.call]
    assert len(calls) > 50
    for name, arguments in calls:
        reader = HermesToolCalls()
        plain, deltas = reader.push(conversation.call_text(name, arguments))
        assert plain == ""
        assert deltas[0].name == name
        assert json.loads("".join(delta.arguments for delta in deltas)) == arguments


def test_only_offered_tools_are_called_and_their_arguments_are_those_of_the_schema() -> None:
    for there, messages in drawn(13, 500):
        for said in messages:
            if said.call:
                assert said.call[0] in there.setting.tool_names
                assert list(said.call[1]) == list(offers.PARAMETERS[said.call[0]])


def test_an_answer_holds_the_result_word_for_word() -> None:
    for _, messages in drawn(17, 800):
        for result, answer in itertools.pairwise(messages):
            if result.role == "tool":
                wrapped = result.text.startswith('{"result"')
                value = result.text.removeprefix('{"result": ').removesuffix("}") if wrapped else result.text
                assert value in answer.text


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


def test_pieces_are_cut_where_no_token_spans_the_cut(tokenizer: Tokenizer) -> None:
    for there, messages in drawn(19, 100):
        pieces = [conversation.head(there.setting), *(text for text, _ in conversation.pieces(messages))]
        apart = [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False).ids]
        assert apart == tokenizer.encode("".join(pieces), add_special_tokens=False).ids


def test_conversations_of_a_row_see_the_setting_and_themselves_alone(tokenizer: Tokenizer) -> None:
    row = packing.Packer(tokenizer, 512, random.Random(2)).row()
    seen = packing.sees(row)
    assert not np.triu(seen, 1).any()
    assert seen.diagonal().all()
    first, second = (int(np.flatnonzero(row.parts == part)[0]) for part in (1, 2))
    assert not seen[second, first]
    assert row.positions[first] == np.count_nonzero(row.parts[:first] == 0)


def test_the_tokeniser_takes_digits_in_pairs_and_gives_text_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("12345", add_special_tokens=False).tokens == ["12", "34", "5"]
    text = "Grüße, 世界! 17 * 23 = 391\n<tool_call>"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_the_shipped_directory_names_the_template_and_the_special_tokens(tokenizer: Tokenizer) -> None:
    config = json.loads((SHIPPED / "tokenizer_config.json").read_text())
    model = json.loads((SHIPPED / "config.json").read_text())
    assert config["chat_template"] == TEMPLATE.read_text()
    assert "token_type_ids" not in config["model_input_names"]
    assert tokenizer.token_to_id("<|im_end|>") == model["eos_token_id"]
    assert tokenizer.get_vocab_size() == model["vocab_size"]


def test_demo_cases_ask_what_the_documentation_shows() -> None:
    asked = {case.said[-1].text for case in cases.demo()}
    assert asked >= {
        "What is 17 * 23?",
        "What is 12 times 34?",
        "What time is it in Tokyo?",
        "What is my name?",
        "Hello!",
    }


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        (
            (ToolCallDelta(0, "c", "clock", '{"timezone": "UTC"}'),),
            conversation.call_text("clock", {"timezone": "UTC"}),
        ),
        ((ToolCallDelta(0, "c", "clock", '{"timezone": '),), '<tool_call>clock {"timezone": '),
        ((), ""),
    ],
)
def test_the_evaluation_reads_a_call_as_the_engine_gives_it(calls: tuple[ToolCallDelta, ...], text: str) -> None:
    assert evaluate.written(Delta(tool_calls=calls)) == text


def test_a_case_asks_the_engine_with_the_text_that_was_trained_on() -> None:
    directory = read_model_directory(SHIPPED)
    assert directory.template is not None
    for case in itertools.islice(cases.cases(random.Random(4), 3), 60):
        request = evaluate.request(case.setting, case.said, Sampling())
        trained = conversation.head(case.setting) + "".join(text for text, _ in conversation.pieces(case.said))
        assert directory.template.render(request.messages, request.tools) == trained + "<|im_start|>assistant\n"


def test_the_entropy_of_free_text_is_the_mean_surprise_in_bits() -> None:
    logprobs = tuple(TokenLogprob("a", math.log(share), b"a") for share in (0.5, 0.125))
    assert evaluate.bits([Delta(logprobs=logprobs)]) == pytest.approx(2.0)
