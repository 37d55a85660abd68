"""Configuration: one YAML file with a closed schema, overridden by the environment, then by the command line.

Each service declares its section as a `Section`; the daemon joins them to one root. An unknown key is an error that
names its line. `MOLTBOT_<SECTION>__<KEY>` overrides a key, `MOLTBOT_<KEY>` one at the top; values are read as YAML.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV_PREFIX = "MOLTBOT_"
_NESTED = "__"


class Section(BaseModel):
    """Base of every part of the configuration: closed, immutable, defaults checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _what_is_empty(cls, value: object, info: ValidationInfo) -> object:
        """A section without keys has its defaults, and an empty path is none: not the working directory."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if value is None and _section(annotation) is not None:
            return {}
        if value == "" and Path in (annotation, *get_args(annotation)):
            if type(None) in get_args(annotation):
                return None
            raise ValueError("a path must not be empty; leave the key out for its default")
        return value


R = TypeVar("R", bound=Section)
Tree = dict[str, Any]


def load(
    root: type[R],
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> R:
    """Read, merge and validate the configuration.

    Args:
        root: The root section.
        path: The YAML file, or `None` for defaults alone.
        environ: The environment; only names that begin with `MOLTBOT_` and name a key are read.
        overrides: Dotted keys from the command line (`{"gateway.port": 8080}`).

    Raises:
        InvalidArgument: The file cannot be read or parsed, or a value is refused; the message names file, line, key and
            how to mend it.
    """
    tree: Tree = {}
    lines: dict[tuple[str, ...], int] = {}
    if path is not None:
        tree, lines = read_yaml(path)
    origin: dict[tuple[str, ...], str] = {}
    for key, value in _from_environment(root, environ).items():
        _put(tree, key, value)
        origin[key] = f"environment variable {ENV_PREFIX}{_NESTED.join(key).upper()}"
    for dotted, value in (overrides or {}).items():
        key = tuple(dotted.split("."))
        _put(tree, key, value)
        origin[key] = f"command line ({dotted})"
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        raise InvalidArgument("\n".join(_explain(root, error, path, lines, origin))) from None


def read_yaml(path: Path) -> tuple[Tree, dict[tuple[str, ...], int]]:
    """Read a YAML mapping and the line of each key.

    Raises:
        InvalidArgument: The file is missing, unreadable, not YAML, has a key twice, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidArgument(f"{path}: there is no such file; `moltbot init --config {path}` writes one") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidArgument(f"{path}:{line}: a byte here is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return _parsed(path, text)
    except RecursionError:
        raise InvalidArgument(f"{path}: nested too deep, or an alias that holds itself; write it out") from None


def _parsed(path: Path, text: str) -> tuple[Tree, dict[tuple[str, ...], int]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise InvalidArgument(f"{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise InvalidArgument(f"{path}:1: the file must be a mapping (`key: value`)")
    lines: dict[tuple[str, ...], int] = {}
    _walk(path, node, (), lines)
    try:
        return cast("Tree", yaml.safe_load(text)), lines
    except (yaml.YAMLError, ValueError) as error:  # an unknown tag, a key that is a list, a date that does not exist
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise InvalidArgument(f"{where}: not a plain value: {getattr(error, 'problem', None) or error}") from None


def _walk(path: Path, node: yaml.Node, at: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*at, str(key_node.value))
            line = key_node.start_mark.line + 1
            if key in lines:
                raise InvalidArgument(f"{path}:{line}: {'.'.join(key)} stands twice (first in line {lines[key]})")
            lines[key] = line
            _walk(path, value_node, key, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            key = (*at, str(index))
            lines[key] = item.start_mark.line + 1
            _walk(path, item, key, lines)


def _put(tree: Tree, key: tuple[str, ...], value: object) -> None:
    for part in key[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = {}
            tree[part] = below
        tree = cast("Tree", below)
    tree[key[-1]] = value


def _section(annotation: object) -> type[Section] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def keys(root: type[Section], at: tuple[str, ...] = ()) -> dict[tuple[str, ...], type[Section]]:
    """All keys of a configuration, each with the section it stands in."""
    found: dict[tuple[str, ...], type[Section]] = {}
    for name, info in root.model_fields.items():
        below = _section(info.annotation)
        if below is None:
            found[(*at, name)] = root
        else:
            found |= keys(below, (*at, name))
    return found


def _names_at(root: type[Section], at: tuple[str, ...]) -> list[str]:
    """Names of the keys in the section at a place, also below a mapping or a list of sections."""
    annotation: object = root
    for part in at:
        section = _section(annotation)
        if section is not None:
            info = section.model_fields.get(part)
            annotation = None if info is None else info.annotation
        else:
            annotation = next(reversed(get_args(annotation)), None)
    section = _section(annotation)
    return [] if section is None else list(section.model_fields)


def _from_environment(root: type[Section], environ: Mapping[str, str]) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key in keys(root):
        name = ENV_PREFIX + _NESTED.join(key).upper()
        if name in environ:
            try:
                found[key] = yaml.safe_load(environ[name]) if environ[name] else ""
            except (yaml.YAMLError, ValueError):
                found[key] = environ[name]
    return found


def _explain(
    root: type[Section],
    error: ValidationError,
    path: Path | None,
    lines: Mapping[tuple[str, ...], int],
    origin: Mapping[tuple[str, ...], str],
) -> list[str]:
    """One line a problem: where, what, how to mend it. Values are not shown: they may be secrets."""
    messages: list[str] = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        key = tuple(str(part) for part in problem["loc"])
        where = origin.get(key)
        if where is None:
            line = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)
            where = f"{path}:{line}" if line is not None else str(path or "defaults")
        dotted = ".".join(key)
        if problem["type"] == "model_type":
            messages.append(f"{where}: {dotted}: a section is a mapping: its keys stand below it, further to the right")
        elif problem["type"] == "extra_forbidden":
            siblings = sorted(".".join((*key[:-1], name)) for name in _names_at(root, key[:-1]))
            near = difflib.get_close_matches(dotted, siblings, n=1)
            mend = f"did you mean {near[0]}?" if near else f"known here: {', '.join(siblings) or 'nothing'}"
            messages.append(f"{where}: unknown key {dotted}; {mend}")
        else:
            messages.append(f"{where}: {dotted}: {problem['msg']}")
    return messages
