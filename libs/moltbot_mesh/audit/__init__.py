"""What a service records itself with: framing, spill and producer of audit events."""
