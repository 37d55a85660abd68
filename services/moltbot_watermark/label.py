"""Labels for generated text after GB 45438-2025: implicit metadata (Annex E) and the explicit label (section 4).

The metadata is one object `AIGC` of seven string fields in a fixed order. `ReservedCode1` is the producer's own: here
it binds label, producer and id, and the text if one was given, under the tenant's key:

    m1.<epoch>.<keyed digest of the text, or nothing>.<MAC>

The propagator's fields are not under the MAC: whoever spreads the text fills them in later, and rightly.

Source: GB 45438-2025, section 4.2 (text) and Annex E (metadata); Cyberspace Administration of China, Measures for
Labelling AI-Generated Synthetic Content, 2025.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import yaml

from moltbot_mesh.errors import FieldViolation, InvalidArgument

if TYPE_CHECKING:
    from moltbot_watermark.keys import Keyring

FIELDS = (
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)
"""In the order that Annex E sets."""
EXPLICIT = {
    "1": "AI 生成内容 · AI-generated",
    "2": "可能由 AI 生成 · Possibly AI-generated",
    "3": "疑似 AI 生成 · Suspected AI-generated",
}
"""The visible label of each value of `Label`."""
_VALUE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]*")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"m1\.([1-9][0-9]{0,4})\.([A-Za-z0-9_-]{22})?\.([A-Za-z0-9_-]{22})")
_MAX_METADATA_CHARACTERS = 65_536
_ROOT = "AIGC"
_NO_LABEL = 'no GB 45438-2025 label: expected JSON {"AIGC": {…}} or Markdown whose YAML front matter has the key AIGC'


@dataclass(frozen=True, slots=True)
class Label:
    """The fields of Annex E."""

    label: str
    """`1` generated, `2` may be, `3` suspected."""
    content_producer: str
    produce_id: str
    reserved_code1: str = ""
    content_propagator: str = ""
    propagate_id: str = ""
    reserved_code2: str = ""

    def values(self) -> tuple[str, ...]:
        """In the order of `FIELDS`."""
        return (
            self.label, self.content_producer, self.produce_id, self.reserved_code1, self.content_propagator,
            self.propagate_id, self.reserved_code2,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verification:
    """What a label is worth."""

    problems: tuple[str, ...]
    """What is wrong, in words for people."""
    well_formed: bool
    authentic: bool
    """This mesh made it, and the text that it stands on, if one is bound and given, is unchanged."""
    tenant: str = ""
    produce_id: str = ""


class Labels:
    """Makes and checks labels.

    Args:
        keyring: The tenants' keys.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def build(self, tenant: str, label: Label, text: str = "") -> Label:
        """Bind a label: fill in `ReservedCode1`.

        Args:
            tenant: Whose key binds it.
            label: The other fields.
            text: The text it is for; empty binds no text.

        Raises:
            InvalidArgument: A field is missing or holds a character that the standard does not allow.
            NotFound: The tenant has no key.
            FailedPrecondition: The tenant's key was revoked.
        """
        violations = [FieldViolation(name, problem) for name, problem in _value_problems(label.values())]
        if violations:
            raise InvalidArgument("; ".join(f"{v.field}: {v.description}" for v in violations), violations=violations)
        epoch = self._keyring.active(tenant).epoch
        key = self._keyring.key(tenant, epoch, "label")
        digest = _digest(key, explained(label.label, bound_text(text))) if text else ""
        code = f"m1.{epoch}.{digest}.{_mac(key, label, epoch, digest)}"
        return Label(
            label.label, label.content_producer, label.produce_id, code, label.content_propagator, label.propagate_id,
            label.reserved_code2,
        )  # fmt: skip

    def verify(self, content: str, tenant: str) -> Verification:
        """Check a label.

        Args:
            content: JSON metadata, or Markdown with front matter.
            tenant: Only with this tenant's keys; empty means with all.

        Raises:
            InvalidArgument: There is no such label.
        """
        pairs, body = _read(content)
        problems = _form_problems(pairs)
        if problems:
            return Verification(tuple(problems), well_formed=False, authentic=False)
        label = Label(*(cast("str", value) for _, value in pairs))
        code = _CODE.fullmatch(label.reserved_code1)
        if code is None:
            return Verification(("ReservedCode1: not of this mesh",), well_formed=True, authentic=False)
        epoch, digest, mac = int(code[1]), code[2] or "", code[3]
        for one in self._keyring.verifying(tenant, epoch):
            key = self._keyring.key(one.tenant, epoch, "label")
            if not hmac.compare_digest(_mac(key, label, epoch, digest), mac):
                continue
            if digest and body is not None and not hmac.compare_digest(_digest(key, body), digest):
                problem = "the text is not the one that was labelled"
                return Verification((problem,), well_formed=True, authentic=False)
            return Verification((), True, True, one.tenant, label.produce_id)
        return Verification(("ReservedCode1: no key of this mesh verifies it",), well_formed=True, authentic=False)


def metadata(label: Label) -> str:
    """The label as JSON, without spaces."""
    return json.dumps({_ROOT: dict(zip(FIELDS, label.values(), strict=True))}, separators=(",", ":"))


def explained(value: str, text: str) -> str:
    """The text under its visible label, as Markdown."""
    return f"> {EXPLICIT[value]}\n\n{text}"


def markdown(label: Label, text: str) -> str:
    """The text with the metadata as front matter and the visible label. Front matter that it has is kept.

    Raises:
        InvalidArgument: The text has a label already.
    """
    # No value can hold a quote or a backslash, so quoting is all the escaping YAML needs.
    fields = "".join(f'  {name}: "{value}"\n' for name, value in zip(FIELDS, label.values(), strict=True))
    own = _FRONT_MATTER.match(text)
    kept = ""
    if own is not None and _mapping(own[1]) is not None:
        if _labelled(own[1]):
            raise InvalidArgument("text: it has an AIGC label already; verify that one, or remove it first")
        kept, text = own[1], text[own.end() :]
    return f"---\n{_ROOT}:\n{fields}{kept}---\n\n{explained(label.label, text)}"


def bound_text(text: str) -> str:
    """The part of a text that a label is bound to: all but its own front matter."""
    own = _FRONT_MATTER.match(text)
    return text[own.end() :] if own is not None and _mapping(own[1]) is not None else text


def _value_problems(values: tuple[object, ...]) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for name, value in zip(FIELDS, values, strict=True):
        if not isinstance(value, str):
            problems.append((name, "must be a string"))
        elif _VALUE.fullmatch(value) is None:
            problems.append((name, 'allowed are the printable ASCII characters without space, " and \\'))
        elif name == "Label" and value not in EXPLICIT:
            problems.append((name, "must be 1 (generated), 2 (may be generated) or 3 (suspected)"))
        elif name in {"ContentProducer", "ProduceID"} and not value:
            problems.append((name, "must not be empty"))
    return problems


def _form_problems(pairs: list[tuple[str, object]]) -> list[str]:
    names = tuple(name for name, _ in pairs)
    if names != FIELDS:
        found = ", ".join(names)[:200] or "none"
        return [f"the fields must be {', '.join(FIELDS)}, each once, in this order; found {found}"]
    return [f"{name}: {problem}" for name, problem in _value_problems(tuple(value for _, value in pairs))]


def _read(content: str) -> tuple[list[tuple[str, object]], str | None]:
    """The fields of a label as they stand, and the text under it, if it came with one."""
    front = _FRONT_MATTER.match(content)
    if front is not None:
        root = _mapping(front[1])
        body = content[front.end() :]
    else:
        root = _json_mapping(content)
        body = None
    for name, value in root or []:
        if name == _ROOT and isinstance(value, list):
            return cast("list[tuple[str, object]]", value), body
    raise InvalidArgument(_NO_LABEL)


def _labelled(front_matter: str) -> bool:
    return any(name == _ROOT for name, _ in _mapping(front_matter) or [])


def _json_mapping(content: str) -> list[tuple[str, object]] | None:
    """A JSON object as pairs, so that order and doubles are seen; `None` if it is none."""
    if len(content) > _MAX_METADATA_CHARACTERS or not content.lstrip().startswith("{"):
        return None
    try:
        return json.loads(content, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None


def _mapping(source: str) -> list[tuple[str, object]] | None:
    """A YAML mapping as pairs; `None` if it is none."""
    if len(source) > _MAX_METADATA_CHARACTERS:
        return None
    try:
        node = yaml.compose(source, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    return _pairs(node, 0) if isinstance(node, yaml.MappingNode) else None


def _pairs(node: yaml.MappingNode, depth: int) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in node.value:
        plain: object = None  # neither text nor, at the top, a mapping: only its place in the order matters
        if isinstance(value, yaml.MappingNode) and depth == 0:
            plain = _pairs(value, 1)
        elif isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:str":
            plain = value.value
        found.append((str(key.value), plain))
    return found


def _digest(key: bytes, body: str) -> str:
    """Keyed digest of a text, whatever its line ends and the blank lines around it."""
    plain = body.replace("\r\n", "\n").strip()
    return _base64(hmac.digest(key, b"text\0" + plain.encode("utf-8", "surrogatepass"), "sha256")[:16])


def _mac(key: bytes, label: Label, epoch: int, digest: str) -> str:
    bound = [label.label, label.content_producer, label.produce_id, epoch, digest]
    return _base64(hmac.digest(key, b"label\0" + json.dumps(bound).encode(), "sha256")[:16])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
