"""The mesh: server, channels, interceptors, errors, settings, registry, lifecycle and telemetry shared by every service."""
