"""The headers that Envoy, the gateway and the services say things to each other with; as gRPC metadata, the same names.

Envoy drops what a client sends under `x-mesh-`, `x-moltbot-` and `x-envoy-`.
"""

from __future__ import annotations

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
"""From clients: the key alone, where no `authorization` is sent."""
REQUEST_ID = "x-request-id"
ONE_TIME_CODE = "x-otp"
"""From clients: the code of an administrator's device."""
TRACEPARENT = "traceparent"
MESH_TOKEN = "x-mesh-token"  # noqa: S105 - a header's name
TENANT = "x-mesh-tenant"
SUBJECT = "x-mesh-subject"
EVENT = "x-mesh-event"
"""The audit event that a call between services belongs to, in hexadecimal."""
PEER = "x-moltbot-peer"
"""Address of the client, with its port, from Envoy."""
MESH_METHOD = "x-mesh-method"
"""The verb of a REST request, before it became gRPC."""
MESH_PATH = "x-mesh-path"
"""Its path, likewise, without the query."""
MESH_STATUS = "x-mesh-status"
"""The HTTP status that the gateway answers with, which becomes `:status`."""
