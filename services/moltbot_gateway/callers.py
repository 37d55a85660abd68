"""Who makes a request of the public API, and how its record begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

import structlog

from moltbot_gateway.ask import Caller
from moltbot_gateway.exchange import UNKNOWN_ROUTE, Exchange
from moltbot_gateway.openai_errors import http_status
from moltbot_mesh.call import ANONYMOUS, Principal, address, current_call, enter_call
from moltbot_mesh.errors import Internal, MoltbotError, PermissionDenied
from moltbot_mesh.headers import API_KEY, AUTHORIZATION, MESH_METHOD, MESH_PATH, PEER, REQUEST_ID
from moltbot_mesh.http_routes import PASSED_ON
from moltbot_mesh.uuid7 import uuid7, uuid_text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from moltbot_gateway.recorder import Recorder
    from moltbot_mesh.api_keys import ApiKeys
    from moltbot_mesh.telemetry import Metrics

log = structlog.get_logger("moltbot.gateway")

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_OPENAI, _TYPED = "/moltbot.gateway.v1.OpenAIService", "/moltbot.gateway.v1.GatewayService"
_ROUTES = {
    **{method: path for (_, path), method in PASSED_ON.items()},
    f"{_OPENAI}/ListModels": "/v1/models",
    f"{_OPENAI}/RetrieveModel": "/v1/models/{model}",
    f"{_OPENAI}/Refuse": UNKNOWN_ROUTE,
    f"{_TYPED}/Chat": "/moltbot/v1/chat",
    f"{_TYPED}/Complete": "/moltbot/v1/complete",
    f"{_TYPED}/Embed": "/moltbot/v1/embed",
    f"{_TYPED}/Rerank": "/moltbot/v1/rerank",
    f"{_TYPED}/Classify": "/moltbot/v1/classify",
    f"{_TYPED}/ListModels": "/moltbot/v1/models",
}
_READ = frozenset({AUTHORIZATION, PEER, REQUEST_ID, MESH_METHOD, MESH_PATH, API_KEY})


class Callers:
    """Begins and ends the record of each request.

    Args:
        api_keys: Recognise callers.
        recorder: Takes finished records.
        metrics: Of the process.
        admit: Raises if requests must be refused because they could not be recorded.
    """

    def __init__(self, api_keys: ApiKeys, recorder: Recorder, metrics: Metrics, admit: Callable[[], None]) -> None:
        self._api_keys = api_keys
        self._recorder = recorder
        self._metrics = metrics
        self._admit = admit

    def begin(self, metadata: Mapping[str, str]) -> Exchange:
        """Begin the record of the call being served, its caller not yet recognised."""
        call = current_call()
        assert call is not None
        request_id = metadata.get(REQUEST_ID, "")
        if not _REQUEST_ID.match(request_id):
            request_id = uuid_text(uuid7())
        action = route = call.method
        if MESH_PATH in metadata:
            path = metadata[MESH_PATH].partition("?")[0]
            action = f"{metadata.get(MESH_METHOD, 'POST')} {path}"[:256]
            route = _ROUTES.get(call.method, call.method)
        peer = address(metadata.get(PEER, ""))
        caller = Caller(ANONYMOUS, call.trace, request_id, action, peer, call.deadline_monotonic_s)
        return Exchange(caller, route)

    async def recognise(self, exchange: Exchange, metadata: Mapping[str, str]) -> Principal:
        """Find out who calls, and make the call act for that tenant.

        Raises:
            Unauthenticated: No key, or not a valid one.
            PermissionDenied: The key may not use models.
        """
        self._admit()
        call = current_call()
        assert call is not None
        if call.principal.kind == "service" and call.principal.tenant:
            principal = call.principal  # a service or the command line, by its mesh token, for a tenant
        else:
            principal = await self._api_keys.authenticate(metadata.get(AUTHORIZATION, ""))
            if not principal.roles & {"user", "admin"}:
                raise PermissionDenied("this key may not use models; it needs the role user")
        caller = exchange.caller
        exchange.caller = Caller(
            principal, caller.trace, caller.request_id, caller.action, caller.peer, caller.deadline_monotonic_s
        )
        enter_call(call.by(principal, caller.request_id, exchange.event_id))
        return principal

    @contextlib.contextmanager
    def recording(self, exchange: Exchange) -> Generator[None]:
        """Record the exchange once when the context ends, however it ends."""
        self._metrics.in_flight.inc()
        try:
            yield
        except MoltbotError as error:
            self.failed(exchange, error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            exchange.outcome, exchange.reason, exchange.http_status = "cancelled", "CANCELLED", 499
            raise
        except Exception:
            exchange.outcome, exchange.reason, exchange.http_status = "failed", "INTERNAL", 500
            raise
        finally:
            self._metrics.in_flight.dec()
            self._recorder.record(exchange)

    def failed(self, exchange: Exchange, error: MoltbotError) -> None:
        """Note how an exchange failed."""
        status = http_status(error)
        exchange.outcome = "refused" if status < 500 else "failed"
        exchange.reason = error.reason
        exchange.http_status = status


def as_shown(error: Exception, exchange: Exchange) -> MoltbotError:
    """The error a client may see: ours as it is, any other as a generic one with the rest in the log."""
    if isinstance(error, MoltbotError):
        return error
    log.error("request failed", request_id=exchange.caller.request_id, exc_info=error)
    return Internal(f"internal error; the gateway's log has the rest under request id {exchange.caller.request_id}")


def read_metadata(context: object) -> dict[str, str]:
    """The headers that the gateway reads."""
    found: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():  # type: ignore[attr-defined]
        if key in _READ and isinstance(value, str):
            found[key] = value
    if AUTHORIZATION not in found and API_KEY in found:
        found[AUTHORIZATION] = f"Bearer {found[API_KEY]}"
    return found
