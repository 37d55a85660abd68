"""Grammars of tool calls: of one that is demanded, and of calls that may stand in a free answer.

Source: llguidance, docs/syntax.md (special tokens, lazy lexemes, tool calling).
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from moltbot_models.engine.constraint import JSON_OPTIONS
from moltbot_models.engine.deepseek_calls import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    FENCE_END,
    SEPARATOR,
)
from moltbot_models.engine.json_calls import ARGUMENTS, CALL_ID, PYTHON_TAG, TOOL_CALLS
from moltbot_models.engine.tool_dialects import DEEPSEEK, DEEPSEEK_FENCED, HERMES, LLAMA, MISTRAL
from moltbot_models.generation import ResponseFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.engine.tool_dialects import ToolDialect
    from moltbot_models.generation import GenerationRequest, ToolSpec

_ANY = "/(?s:.*)/"


def call_grammar(request: GenerationRequest, directory: ModelDirectory, dialect: ToolDialect) -> ResponseFormat:
    """What follows `prompting`'s opening of a demanded call: the arguments after the tool's schema, and the end."""
    end = " ".join(_literal(text, directory) for text in dialect.tail)
    named = [tool for tool in request.tools if request.tool_choice in {"required", tool.name}]
    rules = [f"%json {_schema(tool.parameters)}" for tool in named]
    required = request.tool_choice == "required"
    heads = [_named(tool, directory, dialect) if required else '""' for tool in named]
    calls = " | ".join(f'{head} " "? arguments_{place}' for place, head in enumerate(heads))
    lines = [f"start: ( {calls} ) {end}", *(f"arguments_{place}: {rule}" for place, rule in enumerate(rules))]
    return ResponseFormat("grammar", "\n".join(lines))


def free_grammar(tools: Sequence[ToolSpec], directory: ModelDirectory, dialect: ToolDialect) -> ResponseFormat:
    """An answer that is free until it begins a call: what begins one must be a call of one of the tools.

    Arguments of tools that are `kept` are after the schema, those of others are any object. The opening is recognised
    as the tokenizer's own token and spelled out alike, for the parser reads both.
    """
    lines, before, end = _FREE[dialect.name](directory)
    calls = [f'{before} {_named(tool, directory, dialect)} " "? arguments_{place}' for place, tool in enumerate(tools)]
    lines.append(f"call: ( {' | '.join(calls)} ) {end}")
    if dialect is MISTRAL:
        named = [f"{json.dumps(tool.name)} between arguments_{place}" for place, tool in enumerate(tools)]
        lines.append(f"named: {' | '.join(named)}")
    for place, tool in enumerate(tools):
        schema = _schema(tool.parameters if tool.kept else "{}", lenient=not tool.strict)
        lines.append(f"arguments_{place}: %json {schema}")
    return ResponseFormat("grammar", "\n".join(lines))


def _named(tool: ToolSpec, directory: ModelDirectory, dialect: ToolDialect) -> str:
    """The name and what stands between it and the arguments."""
    name = dialect.written(tool.name)
    if dialect.between in dialect.tags:
        return f"{json.dumps(name)} {_tag(dialect.between, directory)}"
    return json.dumps(name + dialect.between)


_Form = tuple[list[str], str, str]
"""Rules, in which `call` stands for a call; what stands before each call's name, and after its arguments."""
_OBJECT = json.dumps('{"name": "')


def _hermes(directory: ModelDirectory) -> _Form:
    (opening, closing) = HERMES.tags
    rules = [
        "start: ( opened space call space closed )* TEXT",
        *_opened(opening, directory),
        f"closed: {_tag(closing, directory)}",
        'space: "\\n"?',
    ]
    return rules, _OBJECT, '"}"'


def _mistral(directory: ModelDirectory) -> _Form:
    number = f"( {_tag(CALL_ID, directory)} /[A-Za-z0-9]{{0,32}}/ )?"
    rules = [
        'start: TEXT | opened ( " "? "[" call ( "," " "? call )* "]" | named ( again named )* )',
        f"again: {_tag(TOOL_CALLS, directory)}",
        f"between: {number} {_tag(ARGUMENTS, directory)}",
        *_opened(TOOL_CALLS, directory),
    ]
    return rules, _OBJECT, '"}"'


def _llama(directory: ModelDirectory) -> _Form:
    # An answer that begins like a call is one; later braces are text.
    tag = _tag(PYTHON_TAG, directory)
    rules = [
        f"start: TEXT | ( {tag} )? call ( /\\s{{0,4}};\\s{{0,4}}/ call )* /\\s{{0,4}}/",
        f"TEXT: (/\\s*/ | /\\s*[^{{\\s](?s:.)*/) & ~(/\\s*/ {json.dumps(PYTHON_TAG)} {_ANY})",
    ]
    return rules, _OBJECT, '"}"'


def _deepseek(directory: ModelDirectory, *, fenced: bool = False) -> _Form:
    rules = [
        'start: TEXT | opened call ( "\\n"? call )* closed',
        *_opened(CALLS_BEGIN, directory),
        f"closed: {_tag(CALLS_END, directory)}",
    ]
    begin, end = _tag(CALL_BEGIN, directory), _tag(CALL_END, directory)
    if not fenced:
        return rules, begin, end
    return rules, f'{begin} "function" {_tag(SEPARATOR, directory)}', f"{json.dumps(FENCE_END)} {end}"


_FREE = {
    HERMES.name: _hermes,
    LLAMA.name: _llama,
    MISTRAL.name: _mistral,
    DEEPSEEK.name: _deepseek,
    DEEPSEEK_FENCED.name: functools.partial(_deepseek, fenced=True),
}


def _opened(tag: str, directory: ModelDirectory) -> list[str]:
    token = directory.tokenizer.token_to_id(tag)
    alone = "" if token is None else f" | TEXT <[{token}]>"
    return [f"opened: spelled{alone}", f"spelled[lazy]: TEXT {json.dumps(tag)}", f"TEXT: {_ANY}"]


def _tag(tag: str, directory: ModelDirectory) -> str:
    token = directory.tokenizer.token_to_id(tag)
    spelled = json.dumps(tag)
    return spelled if token is None else f"( <[{token}]> | {spelled} )"


def _literal(text: str, directory: ModelDirectory) -> str:
    """A text of a grammar; a tag is the token that the tokenizer has for it, white space may be missing."""
    token = directory.tokenizer.token_to_id(text) if len(text) > 1 else None
    if token is not None:
        return f"<[{token}]>"
    return json.dumps(text) + ("?" if text.isspace() else "")


def _schema(parameters: str, *, lenient: bool = False) -> str:
    """A tool's schema, as an object's: what is no schema of an object lets any object through.

    What a grammar cannot say of it is an error; where it is `lenient`, it is left out as far as that is known.
    """
    try:
        schema = json.loads(parameters)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        schema = {}
    options = JSON_OPTIONS | {"lenient": lenient}
    return json.dumps({"type": "object", **schema, "x-guidance": options}, ensure_ascii=False)
