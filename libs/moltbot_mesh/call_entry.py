"""How a served call begins: its metadata are read, its caller is recognised, and access is checked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moltbot_mesh import call as calls
from moltbot_mesh.api_keys import ADMINISTRATORS
from moltbot_mesh.call import ANONYMOUS, Call, Principal, TraceContext, address
from moltbot_mesh.errors import PermissionDenied, Unauthenticated
from moltbot_mesh.headers import (
    API_KEY,
    AUTHORIZATION,
    EVENT,
    MESH_METHOD,
    MESH_PATH,
    MESH_TOKEN,
    ONE_TIME_CODE,
    PEER,
    REQUEST_ID,
    SUBJECT,
    TENANT,
    TRACEPARENT,
)
from moltbot_mesh.module import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_mesh.interceptors import Surroundings

_READ = frozenset({
    MESH_TOKEN, TENANT, SUBJECT, PEER, REQUEST_ID, TRACEPARENT, AUTHORIZATION, MESH_METHOD, MESH_PATH, ONE_TIME_CODE,
    EVENT, API_KEY,
})  # fmt: skip
_NEEDED = {Access.OPERATOR: "admin", Access.SECURITY: "security", Access.AUDITOR: "auditor"}
_SERVICE_ROLES = frozenset({"service"})
_EVENT_BYTES = 16
_NO_DEADLINE_S = 10 * 365 * 86400.0


class CallEntry:
    """Lets calls to one method in.

    Args:
        method: Full name.
        access: Who may call it.
        around: Knows tokens and keys.
    """

    def __init__(self, method: str, access: Access, around: Surroundings) -> None:
        self._method = method
        self._access = access
        self._around = around

    async def enter(self, context: Any) -> Call:
        """Read metadata, recognise the caller, check access and make the call current.

        Raises:
            Unauthenticated: Nobody was recognised, or an administrator without a second factor.
            PermissionDenied: The caller may not call this.
            Unavailable: What clients call cannot be recorded, and must be.
        """
        metadata: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if key in _READ:
                metadata[key] = value
        trace = TraceContext.parse(metadata.get(TRACEPARENT))
        if trace is None:
            trace = TraceContext.new(sampled=self._around.telemetry.sample())
        remaining_s = context.time_remaining()
        call = Call(
            self._method,
            ANONYMOUS,
            None if remaining_s is None or remaining_s > _NO_DEADLINE_S else time.monotonic() + remaining_s,
            trace,
            metadata.get(REQUEST_ID, ""),
            address(metadata.get(PEER, "")),
            f"{metadata.get(MESH_METHOD, '')} {metadata[MESH_PATH].partition('?')[0]}" if MESH_PATH in metadata else "",
        )
        calls.enter_call(call)
        principal = await self._principal(metadata)
        if principal is not ANONYMOUS:
            call = call.by(principal, event_id=_event(metadata) if principal.kind == "service" else None)
            calls.enter_call(call)  # also what is refused from here on is recorded as this caller's
            allowed = await self._allowed(principal, metadata.get(ONE_TIME_CODE, ""), call.peer)
            if allowed is not principal:
                call = call.by(allowed)
                calls.enter_call(call)
            if self._around.calls is not None and principal.kind != "service":
                self._around.calls.admit()
        return call

    async def _principal(self, metadata: Mapping[str, str]) -> Principal:
        token = metadata.get(MESH_TOKEN)
        if token is not None:
            service = self._around.identity.verify(token)
            return Principal("service", service, metadata.get(TENANT, ""), _SERVICE_ROLES)
        if self._access is Access.PUBLIC:
            return ANONYMOUS
        authorization = metadata.get(AUTHORIZATION)
        if authorization is None and API_KEY in metadata:
            authorization = f"Bearer {metadata[API_KEY]}"
        if self._access is Access.SERVICE or self._around.api_keys is None:
            raise PermissionDenied(f"{self._method} is for services of the mesh only")
        if authorization is None:
            raise Unauthenticated("no API key: send metadata `authorization: Bearer <key>`")
        return await self._around.api_keys.authenticate(authorization)

    async def _allowed(self, principal: Principal, code: str, peer: str) -> Principal:
        """The caller with the roles that it may use now: an administrator's count only with a second factor."""
        if principal.kind == "service":
            return principal
        needed = _NEEDED.get(self._access)
        if needed is not None and needed not in principal.roles:
            raise PermissionDenied(f"{self._method} needs a key with the role {needed}")
        if self._around.factors is None or not principal.roles & ADMINISTRATORS:
            return principal
        try:
            await self._around.factors.admit(principal.subject, code, peer)
        except Unauthenticated:
            if needed is not None or code:
                raise
            return replace(principal, roles=principal.roles - ADMINISTRATORS)
        return principal


def _event(metadata: Mapping[str, str]) -> bytes:
    """The event that a service says its call belongs to."""
    try:
        found = bytes.fromhex(metadata.get(EVENT, ""))
    except ValueError:
        return b""
    return found if len(found) == _EVENT_BYTES else b""
