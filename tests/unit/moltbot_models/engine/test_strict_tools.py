"""A model that is free to call says what it likes; once it begins a call, the call keeps to the tool's schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from tokenizers import AddedToken, Tokenizer

import moltbot_models
from moltbot_models.engine import EngineError, TextEngine
from moltbot_models.engine.call_grammar import free_grammar
from moltbot_models.engine.constraint import Constraint, Grammars
from moltbot_models.engine.model_directory import read_model_directory
from moltbot_models.engine.prompting import build_prompt
from moltbot_models.engine.tool_dialects import DEEPSEEK, DEEPSEEK_FENCED, HERMES, LLAMA, MISTRAL
from moltbot_models.generation import GenerationRequest, Message, Sampling, ToolSpec
from moltbot_testkit.random_model import CHATML, model_config, random_weights, write_model

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
SCHEMA = {"properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
PICK = ToolSpec("pick", "one", json.dumps(SCHEMA), strict=True)
PLACE = ToolSpec("place \u00fc", "two", json.dumps(SCHEMA), strict=True)
LOOSE = ToolSpec("loose", "three", json.dumps(SCHEMA))
TOOLS = (PICK, PLACE, LOOSE)
BARS = DEEPSEEK.tags
TAGS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
    "deepseek": BARS,
    "deepseek-fenced": BARS,
}
DIALECTS = {
    "hermes": HERMES,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
    "deepseek-fenced": DEEPSEEK_FENCED,
}


def with_tags(directory: Path, tags: tuple[str, ...], *, special: bool) -> Path:
    """A model whose tokenizer has the tags as tokens of their own."""
    config = model_config("llama", max_position_embeddings=2048, vocab_size=259 + len(tags))
    write_model(directory, config, random_weights(config))
    file = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_str(byte_level(file, len(tags)))
    tokenizer.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in tags])
    tokenizer.save(file)
    return directory


def byte_level(file: str, extra: int) -> str:
    """The tokenizer without its last words, whose places the tags take."""
    tree = json.loads(Path(file).read_text())
    for number in range(259, 259 + extra):
        del tree["model"]["vocab"][f"w{number}"]
    return json.dumps(tree)


@pytest.fixture(scope="module", params=[False, True, None], ids=["tokens", "special-tokens", "no-tokens"])
def directories(request, tmp_path_factory):
    """One directory for each dialect: its tags are tokens, special tokens, or mere text."""
    return {
        name: read_model_directory(
            with_tags(
                tmp_path_factory.mktemp(name), tags if request.param is not None else (), special=bool(request.param)
            )
        )
        for name, tags in TAGS.items()
    }


def taken(directory, dialect, text):
    """How much of a text the grammar lets through, and whether it may end there."""
    constraint = Grammars(directory, len(directory.tokenizer.get_vocab())).constraint(
        free_grammar(TOOLS, directory, DIALECTS[dialect]), field="tools"
    )
    ids = directory.tokenizer.encode(text, add_special_tokens=False).ids
    count = constraint.matcher.validate_tokens(ids)
    whole = constraint.matcher.try_consume_tokens(ids) == len(ids) and constraint.matcher.is_accepting()
    return directory.tokenizer.decode(ids[:count], skip_special_tokens=False), whole


def call(name, arguments, key="arguments"):
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": {arguments}}}'


ONE, TWO, THREE = call("pick", '{"n": 1}'), call("pick", '{"n":2}'), call("place \u00fc", '{"n": 3}')
ANY = call("loose", '{"anything": [1, {}]}')
LLAMA_ONE, LLAMA_ANY = call("pick", '{"n": 1}', "parameters"), call("loose", '{"z": 0}', "parameters")
GOOD = [
    ("hermes", "Hello {x} [y] <tool and < tool_call>.\n\n"),
    ("hermes", f"<tool_call>\n{ONE}\n</tool_call>"),
    ("hermes", f"Sure.\n<tool_call>{THREE}</tool_call>\n<tool_call>\n{TWO}\n</tool_call> done"),
    ("hermes", f"<tool_call>\n{ANY}\n</tool_call>"),
    ("llama", "Hello {x}"),
    ("llama", "  \n "),
    ("llama", ""),
    ("llama", LLAMA_ONE),
    ("llama", f"{LLAMA_ONE}\n"),
    ("llama", f"<|python_tag|>{LLAMA_ONE}; {LLAMA_ANY}"),
    ("mistral", "Hello [TOOL] [ARGS"),
    ("mistral", f"[TOOL_CALLS][{ONE}, {ANY}]"),
    ("mistral", f"Yes. [TOOL_CALLS] [{ONE}]"),
    ("mistral", 'ok [TOOL_CALLS]pick[ARGS]{"n": 2}[TOOL_CALLS]loose[CALL_ID]a1[ARGS]{"k": {}}'),
    ("deepseek", f"Hello {BARS[0][:12]}"),
    (
        "deepseek",
        f'So. {BARS[0]}{BARS[1]}pick{BARS[2]}{{"n": 1}}{BARS[3]}{BARS[1]}loose{BARS[2]}{{}}{BARS[3]}{BARS[4]}',
    ),
    ("deepseek-fenced", f'{BARS[0]}{BARS[1]}function{BARS[2]}pick\n```json\n{{"n": 1}}\n```{BARS[3]}{BARS[4]}'),
]
BAD = [
    ("hermes", 'a <tool_call>\n{"nam', '": 1}'),
    ("hermes", '<tool_call>\n{"name": "', 'other", "arguments": {}}'),
    ("hermes", '<tool_call>{"name": "pick", "arguments": {"n": ', "4}}</tool_call>"),
    ("hermes", '<tool_call>{"name": "pick", "arguments": {"', 'm": 1}}'),
    ("hermes", f"<tool_call>{ONE}", " and text"),
    ("hermes", f"<tool_call>{ONE}</tool_call><tool_call>", "no"),
    ("llama", '{"', 'answer": 42}'),
    ("llama", " \n", '{"x": 1}'),
    ("llama", "<|python_tag|>", "brave_search.call()"),
    ("llama", '{"name": "pick", "parameters": {"n": ', "7}}"),
    ("llama", f"{LLAMA_ONE} ", "and text"),
    ("mistral", "[TOOL_CALLS]", "text"),
    ("mistral", '[TOOL_CALLS][{"name": "pick", "arguments": {"n": ', '"1"}}]'),
    ("mistral", 'a [TOOL_CALLS]pick[ARGS]{"n": ', "9}"),
    ("mistral", f"[TOOL_CALLS][{ONE}]", "and text"),
    ("deepseek", f"a {BARS[0]}", "text"),
    ("deepseek", f'{BARS[0]}{BARS[1]}pick{BARS[2]}{{"n": ', "5}"),
    ("deepseek-fenced", f"{BARS[0]}{BARS[1]}function{BARS[2]}p", "ack"),
]


@pytest.mark.parametrize(("dialect", "text"), GOOD)
def test_what_is_free_and_what_is_right_goes_through(directories, dialect, text):
    assert taken(directories[dialect], dialect, text) == (text, True)


@pytest.mark.parametrize(("dialect", "begun", "wrong"), BAD)
def test_a_call_that_has_begun_cannot_go_wrong(directories, dialect, begun, wrong):
    assert taken(directories[dialect], dialect, begun + wrong) == (begun, False)


def test_tags_spelled_out_bind_like_the_tokens_themselves(tmp_path):
    directory = read_model_directory(with_tags(tmp_path, TAGS["hermes"], special=True))
    grammar = free_grammar(TOOLS, directory, HERMES)
    matcher = Grammars(directory, 261).constraint(grammar).matcher
    letters = [directory.tokenizer.token_to_id(letter) for letter in "<tool_call>"]
    assert matcher.try_consume_tokens(letters) == len(letters)
    assert matcher.validate_tokens([directory.tokenizer.token_to_id("n")]) == 0
    assert matcher.validate_tokens([directory.tokenizer.token_to_id("{")]) == 1


OF_THE_MESH = {
    "type": "object",
    "properties": {"table": {"enum": ["people", "orders"]}, "tags": {"type": "array", "uniqueItems": True}},
    "required": ["table"],
    "additionalProperties": False,
}


def test_a_tool_of_the_mesh_is_called_after_its_schema_unasked(tmp_path):
    directory = read_model_directory(with_tags(tmp_path, TAGS["hermes"], special=True))
    tool = ToolSpec("find", "", json.dumps(OF_THE_MESH), mesh=True)
    grammar = free_grammar((tool,), directory, HERMES)
    matcher = Grammars(directory, len(directory.tokenizer.get_vocab())).constraint(grammar).matcher
    good, bad = (call("find", json.dumps({"table": table, "tags": [1]})) for table in ("people", "peoples"))
    ids = directory.tokenizer.encode(f"<tool_call>{bad}", add_special_tokens=False).ids
    assert directory.tokenizer.decode(ids[: matcher.validate_tokens(ids)]).endswith('{"table": "people')
    ids = directory.tokenizer.encode(f"<tool_call>{good}</tool_call>", add_special_tokens=False).ids
    assert matcher.validate_tokens(ids) == len(ids)


def test_what_a_grammar_cannot_say_of_a_schema_is_an_error_only_where_it_is_asked_for(tmp_path):
    directory = read_model_directory(with_tags(tmp_path, TAGS["hermes"], special=True))
    grammars = Grammars(directory, len(directory.tokenizer.get_vocab()))
    asked = ToolSpec("find", "", json.dumps(OF_THE_MESH), strict=True, mesh=True)
    with pytest.raises(EngineError, match="uniqueItems"):
        grammars.constraint(free_grammar((asked,), directory, HERMES), field="tools")


class Eager:
    """Wants calls: raises the next byte of an opening at the places that `at` names, and all letters else."""

    def __init__(self, tokenizer, text, at=0):
        self.ids, self.at = tokenizer.encode(text, add_special_tokens=False).ids, at

    def alter(self, logits, contexts):
        for row, context in zip(logits, contexts, strict=True):
            place = context.answered - self.at
            if 0 <= place < len(self.ids):
                row[self.ids[place]] = 1e6

    def choose(self, candidates, contexts):
        return [None] * len(contexts)


def asked(engine, answer, tools, hook, *, choice="auto", options=(), **sampling):
    request = GenerationRequest(
        "m",
        messages=(Message("user", "hi"),),
        tools=tools,
        tool_choice=choice,
        template_options=options,
        sampling=Sampling(**{"max_tokens": 900, "temperature": 1.0, **sampling}),
    )
    engine.submit(request, answer.put, on_error=answer.fail, hook=hook)
    return answer.wait()


def found_calls(answer):
    calls = {}
    for piece in (piece for delta in answer.deltas for piece in delta.tool_calls):
        one = calls.setdefault(piece.index, ["", ""])
        one[0] += piece.name
        one[1] += piece.arguments
    return [(name, arguments) for name, arguments in calls.values()]


@pytest.fixture(scope="module", params=TAGS)
def speaker(request, tmp_path_factory, exact):
    tags = TAGS[request.param]
    path = with_tags(tmp_path_factory.mktemp(request.param), tags, special=request.param != "hermes")
    mark = f"{tags[0]}```json" if request.param == "deepseek-fenced" else tags[0]
    template = CHATML.replace("<tool_call>", mark)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    engine = TextEngine.load(path, replace(exact, kv_cache_bytes=16 << 20))
    yield engine, tags[0]
    engine.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_random_model_that_begins_a_call_ends_it_as_the_schema_says(speaker, new_answer, seed):
    engine, opening = speaker
    answer = asked(engine, new_answer(), (PICK, PLACE), Eager(engine._directory.tokenizer, opening), seed=seed)
    assert answer.error is None
    calls = found_calls(answer)
    assert calls, answer.text
    for name, arguments in calls:
        assert name in {"pick", PLACE.name}
        jsonschema.validate(json.loads(arguments), SCHEMA)


OF_MESH = tuple(replace(tool, strict=False, mesh=True) for tool in (PICK, PLACE))


def test_calls_of_the_meshs_tools_keep_to_their_schemas_but_where_any_json_begins_a_call(speaker, new_answer):
    engine, opening = speaker
    answer = asked(engine, new_answer(), OF_MESH, Eager(engine._directory.tokenizer, opening), seed=1)
    assert answer.error is None
    calls = found_calls(answer)
    assert bool(calls) is (opening != "<|python_tag|>")
    for name, arguments in calls:
        assert name in {"pick", PLACE.name}
        jsonschema.validate(json.loads(arguments), SCHEMA)


@pytest.mark.parametrize("sampling", [{"stop_token_ids": (97,)}, {"ignore_eos": True}, {"min_tokens": 3}])
def test_nobody_asked_for_it_so_it_keeps_no_token_away(tmp_path, exact, sampling):
    directory = read_model_directory(with_tags(tmp_path, TAGS["hermes"], special=False))
    request = GenerationRequest("m", messages=(Message("user", "hi"),), tools=OF_MESH)
    assert build_prompt(directory, request, 300, 2000).unasked is not None
    free = replace(request, sampling=Sampling(**sampling))
    assert build_prompt(directory, free, 300, 2000).unasked is None


def test_where_it_cannot_go_on_the_answer_goes_on_without(tmp_path, exact, new_answer, monkeypatch):
    engine = TextEngine.load(with_tags(tmp_path, TAGS["hermes"], special=False), exact)
    real = Constraint.accept

    def fails(self, token):
        # As a grammar does that has become too complex: the matcher takes nothing any more.
        if not self.lost:
            self.matcher.consume_token(1 << 20)
        real(self, token)

    monkeypatch.setattr(Constraint, "accept", fails)
    try:
        prose = Eager(engine._directory.tokenizer, "I would rather not.<|im_end|>")
        assert asked(engine, new_answer(), OF_MESH, prose, temperature=0.0).text == "I would rather not."
        assert asked(engine, new_answer(), (PICK,), prose, temperature=0.0).error.reason == "ENGINE_FAILED"
    finally:
        engine.close()


@pytest.mark.parametrize("seed", range(3))
def test_nobody_asked_for_it_so_it_ends_no_answer_that_is_to_be_longer(speaker, new_answer, seed):
    engine, opening = speaker
    hook = Eager(engine._directory.tokenizer, opening)
    answer = asked(engine, new_answer(), OF_MESH, hook, seed=seed, min_tokens=200, max_tokens=220)
    assert answer.last.usage.completion_tokens >= 200


@pytest.mark.parametrize("wide", [{"type": "number", "maximum": 1e30}, {"type": "no such type"}, 7])
@pytest.mark.parametrize("strict", [False, True])
def test_a_tool_of_the_mesh_of_which_no_grammar_can_be_made_refuses_nothing(tmp_path, exact, new_answer, wide, strict):
    engine = TextEngine.load(with_tags(tmp_path, TAGS["hermes"], special=False), exact)
    try:
        tools = (ToolSpec("wide", "", json.dumps({"properties": {"n": wide}}), mesh=True), PICK)
        tools = tools if strict else tools[:1]
        # The first 30 bytes are the model's own wish, and "wide" is bound to nothing.
        hook = Eager(
            engine._directory.tokenizer, '<tool_call>{"name": "wide", "arguments": {"z": 0}}</tool_call><|im_end|>'
        )
        answer = asked(engine, new_answer(), tools, hook, seed=1)
        assert found_calls(answer) == [("wide", '{"z": 0}')]
        if strict:
            hook = Eager(engine._directory.tokenizer, '<tool_call>{"name": "pick", "arguments": ')
            calls = found_calls(asked(engine, new_answer(), tools, hook, seed=1))
            jsonschema.validate(json.loads(calls[0][1]), SCHEMA)
    finally:
        engine.close()


def test_the_same_model_goes_wrong_where_nothing_is_strict(speaker, new_answer):
    engine, opening = speaker
    tools = (replace(PICK, strict=False), replace(PLACE, strict=False))
    hook = Eager(engine._directory.tokenizer, opening)
    assert not any(
        found_calls(asked(engine, new_answer(), tools, hook, seed=seed, max_tokens=200)) for seed in range(3)
    )


def test_an_answer_without_a_call_is_the_one_it_would_be_anyway(speaker, new_answer):
    engine, _ = speaker
    prose = Eager(engine._directory.tokenizer, "I would rather not, thank you.<|im_end|>")
    strict = asked(engine, new_answer(), (PICK,), prose, temperature=0.0)
    free = asked(engine, new_answer(), (replace(PICK, strict=False),), prose, temperature=0.0)
    assert strict.text == free.text == "I would rather not, thank you."
    assert strict.last.finish_reason == free.last.finish_reason == "stop"


def test_a_call_after_text_and_one_beside_it(tmp_path, exact, new_answer):
    path = with_tags(tmp_path, TAGS["hermes"], special=False)
    engine = TextEngine.load(path, exact)
    try:
        first = f"Well.\n<tool_call>\n{call('pick', '{')}"[:-1]
        answer = asked(engine, new_answer(), (PICK,), Eager(engine._directory.tokenizer, first), seed=1, max_tokens=200)
        assert answer.text.startswith("Well.")
        (name, arguments), *_ = found_calls(answer)
        assert name == "pick"
        jsonschema.validate(json.loads(arguments), SCHEMA)
    finally:
        engine.close()


THINKS = """{%- for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}assistant: {% if opens is defined %}<think>
{% endif %}{# </think> #}{% if tools %}<tool_call>{% endif %}"""


@pytest.mark.parametrize("opens", [False, True])
def test_thoughts_are_free_to_speak_of_calls(tmp_path, exact, new_answer, opens):
    path = with_tags(tmp_path, (*TAGS["hermes"], "<think>", "</think>"), special=False)
    template = THINKS.replace("{% if tools %}<tool_call>{% endif %}", "") + "{# <tool_call> #}"
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    engine = TextEngine.load(path, exact)
    try:
        thoughts = "a <tool_call> is none here, <tool_call> neither </think>\n\n<tool_call>"
        said = Eager(engine._directory.tokenizer, thoughts if opens else f"<think>{thoughts}")
        options = (("opens", True),) if opens else ()
        answer = asked(engine, new_answer(), (PICK,), said, options=options, seed=2)
        assert answer.error is None
        assert "".join(delta.reasoning for delta in answer.deltas) == "a <tool_call> is none here, <tool_call> neither"
        (name, arguments), *_ = found_calls(answer)
        assert name == "pick"
        jsonschema.validate(json.loads(arguments), SCHEMA)
    finally:
        engine.close()


def test_a_call_right_where_thoughts_might_have_been(tmp_path, exact, new_answer):
    path = with_tags(tmp_path, TAGS["hermes"], special=False)
    template = THINKS.replace("{% if tools %}<tool_call>{% endif %}", "") + "{# <tool_call> #}"
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    engine = TextEngine.load(path, exact)
    try:
        answer = asked(engine, new_answer(), (PICK,), Eager(engine._directory.tokenizer, "<tool_call>"), seed=3)
        ((name, arguments), *_) = found_calls(answer)
        assert name == "pick"
        jsonschema.validate(json.loads(arguments), SCHEMA)
    finally:
        engine.close()


def test_a_schema_that_cannot_be_kept_is_refused_at_once_by_its_field(speaker, new_answer):
    engine, _ = speaker
    tool = ToolSpec("pick", "", json.dumps({"properties": {"n": {"type": "stri"}}}), strict=True)
    with pytest.raises(EngineError, match="tools: grammar cannot be used") as refused:
        asked(engine, new_answer(), (tool,), None)
    assert refused.value.reason == "INVALID_ARGUMENT"


def test_the_shipped_model_calls_its_tools_strictly(new_answer):
    engine = TextEngine.load(TINY)
    schema = {
        "properties": {"expression": {"type": "string", "pattern": "^[0-9 +*/().-]{1,40}$"}},
        "required": ["expression"],
        "additionalProperties": False,
    }
    tools = (ToolSpec("calculator", "Computes an arithmetic expression.", json.dumps(schema), strict=True),)
    try:
        answer = new_answer()
        request = GenerationRequest(
            "m",
            messages=(Message("user", "What is 12 times 7?"),),
            tools=tools,
            sampling=Sampling(temperature=0.0, max_tokens=60),
        )
        engine.submit(request, answer.put, on_error=answer.fail)
        assert answer.wait().last.finish_reason == "tool_calls"
        ((name, arguments),) = found_calls(answer)
        assert name == "calculator"
        jsonschema.validate(json.loads(arguments), schema)
    finally:
        engine.close()
