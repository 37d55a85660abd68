"""The mesh: server, channels, interceptors, errors, settings, registry, lifecycle and telemetry of every service."""
