"""The accuracy gate: what a quantised model answers beside its reference, and whether that is near enough to serve."""

from __future__ import annotations

from moltbot_models.gate.report import Check, GateFailed, GateReport

__all__ = ["Check", "GateFailed", "GateReport"]
