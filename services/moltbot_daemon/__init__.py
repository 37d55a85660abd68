"""The `moltbot` command and the module graph: the only place that knows all services."""
