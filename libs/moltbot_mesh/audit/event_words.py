"""What events say alike, whoever records them: how it ended, and from where it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moltbot.audit.v1 import audit_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

Outcome = Literal["success", "refused", "failed", "cancelled"]
OUTCOMES: Mapping[Outcome, audit_pb2.Outcome.ValueType] = {
    "success": audit_pb2.OUTCOME_SUCCESS,
    "refused": audit_pb2.OUTCOME_REFUSED,
    "failed": audit_pb2.OUTCOME_FAILED,
    "cancelled": audit_pb2.OUTCOME_CANCELLED,
}
_LOCAL = ("", "127.0.0.1", "::1")


def ingress(peer: str) -> audit_pb2.IngressClass.ValueType:
    """How a client came in.

    Args:
        peer: Its address, without port; empty within the process.
    """
    return audit_pb2.INGRESS_CLASS_LOCAL if peer in _LOCAL else audit_pb2.INGRESS_CLASS_REMOTE
