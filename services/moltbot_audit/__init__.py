"""The audit service: a tamper-evident log of all that happened."""
