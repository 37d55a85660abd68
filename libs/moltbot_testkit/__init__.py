"""What tests share; it ships with nothing."""

import moltbot_models  # noqa: F401 # pyright: ignore[reportUnusedImport] - before OpenVINO: see there
