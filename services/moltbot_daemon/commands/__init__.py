"""The subcommands of `moltbot`, one module each group."""
