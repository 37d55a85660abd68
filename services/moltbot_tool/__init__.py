"""The tool service: a registry of tools, and their execution."""
