"""What all JSON bodies of requests share: how they are read, how a field is refused, the mesh's own fields."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from moltbot_gateway.ask import MeshOptions
from moltbot_mesh.errors import FieldViolation, InvalidArgument

ModelId = Annotated[str, Meta(max_length=128)]
_Short = Annotated[str, Meta(max_length=256)]
_PLACE = re.compile(r" - at `(\$[^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]+)`")
_UNKNOWN = re.compile(r"contains unknown field `([^`]+)`")
_EndUser = Annotated[str, Meta(max_length=512)]
T = TypeVar("T")


class MeshFields(Struct, forbid_unknown_fields=True):
    """What stands under `moltbot`."""

    session: Annotated[str, Meta(max_length=128)] = ""
    task_type: Annotated[str, Meta(max_length=128)] = ""
    tools: Annotated[list[_Short], Meta(max_length=128)] = []
    mark: bool | None = None


class PersonFields(Struct):
    """Whom a request is about."""

    user: _EndUser | None = None
    """What `safety_identifier` was called before."""
    safety_identifier: _EndUser | None = None

    @property
    def end_user(self) -> str:
        """Empty if the body does not say."""
        return self.safety_identifier or self.user or ""


_person = msgspec.json.Decoder(PersonFields)


def end_user(body: bytes) -> str | None:
    """Whom a body is about, whatever else of it may be refused; None if that cannot be told."""
    try:
        return _person.decode(body).end_user
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def mesh_options(mesh: MeshFields | None) -> MeshOptions:
    """What the mesh does beyond; the defaults if the body does not say."""
    if mesh is None:
        return MeshOptions()
    return MeshOptions(mesh.session, mesh.task_type, tuple(mesh.tools), mesh.mark)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Read a body.

    Raises:
        InvalidArgument: Not JSON, or a field is missing, of a wrong type or out of range; the violation names it.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        at = place.group(1)[1:].lstrip(".") if place else ""
        text = _PLACE.sub("", text)
        for pattern in (_MISSING, _UNKNOWN):
            named = pattern.search(text)
            if named:
                at = f"{at}.{named.group(1)}" if at else named.group(1)
        raise refused(at or "body", text[:1].lower() + text[1:]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}", reason="MALFORMED_BODY") from None
    except RecursionError:
        raise InvalidArgument("the body is nested too deep", reason="MALFORMED_BODY") from None


def refused(field: str, description: str) -> InvalidArgument:
    """The error for a field that cannot be taken."""
    return InvalidArgument(f"{field}: {description}", violations=(FieldViolation(field, description),))
