"""What every subcommand shares: arguments, results, exit codes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moltbot_daemon.places import Places, make, places
from moltbot_daemon.settings import Settings
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.settings import load
from moltbot_mesh.telemetry import configure_logging

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

OK, FAILED, USAGE, UNAVAILABLE, FOUND_DAMAGE = 0, 1, 64, 69, 65
"""Exit codes: done; failed; wrong use or configuration (EX_USAGE); a service cannot be reached (EX_UNAVAILABLE);
checked and found damaged or not found (EX_DATAERR)."""
DEFAULT_CONFIG = "moltbot.yaml"


@dataclass(frozen=True, slots=True)
class Shell:
    """One call of the command."""

    args: argparse.Namespace
    settings: Settings
    places: Places
    config_file: Path | None

    def made(self) -> Places:
        """The installation's directories, made if they are not there."""
        make(self.places)
        return self.places

    def show(self, value: Any, text: str) -> None:
        """Print a result: text for people, JSON for machines."""
        show(self.args, value, text)


def show(args: argparse.Namespace, value: Any, text: str) -> None:
    """Print a result: text for people, JSON for machines."""
    shown = json.dumps(value, indent=2, ensure_ascii=False) if args.json else printable(text)
    print(shown, flush=True)  # noqa: T201 - the result


def printable(text: str, kept: str = "\n\t") -> str:
    """A text with what a terminal would obey spelled out: clients, too, have a say in what is shown.

    Args:
        text: What is to be shown.
        kept: Control characters that stay as they are.
    """
    return "".join(one if one.isprintable() or one in kept else repr(one)[1:-1] for one in text)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments that every subcommand takes."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (MOLTBOT_CONFIG; ./moltbot.yaml)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where everything is kept (MOLTBOT_DATA_DIR)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="of the log on stderr")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def open_shell(args: argparse.Namespace, overrides: Mapping[str, Any]) -> Shell:
    """Read the configuration.

    Raises:
        InvalidArgument: It is not there, or not valid.
    """
    config = args.config or (Path(os.environ["MOLTBOT_CONFIG"]) if os.environ.get("MOLTBOT_CONFIG") else None)
    if config is None and Path(DEFAULT_CONFIG).is_file():
        config = Path(DEFAULT_CONFIG)
    if config is not None and args.command != "init":
        _check_file(config)
    given = {key: value for key, value in overrides.items() if value is not None}
    if args.data_dir is not None:
        given["data_dir"] = str(args.data_dir)
    if args.log_level is not None:
        given["log_level"] = args.log_level
    if config is not None and args.command == "init" and not config.exists():
        settings = load(Settings, None, os.environ, given)
    else:
        settings = load(Settings, config, os.environ, given)
    configure_logging(settings.log_level)
    return Shell(args, settings, places(settings), config)


def _check_file(config: Path) -> None:
    if not config.exists():
        raise InvalidArgument(f"{config}: there is no such file; `moltbot init --config {config}` writes one")
    if not config.is_file():
        raise InvalidArgument(f"{config}: not a file; --config and MOLTBOT_CONFIG name the configuration file itself")


def tell(text: str) -> None:
    """Say something to the person, beside the result."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress
