"""Triton: fetched, given models that wrap our engines, and kept running. The `*_backend` modules run inside it."""
