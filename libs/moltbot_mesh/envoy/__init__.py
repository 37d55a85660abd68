"""Envoy in front of the mesh: its configuration, its process, and what it refused by itself."""
