"""What can be wrong with what a configuration names, one check each. A check looks and changes nothing."""

from __future__ import annotations

import contextlib
import difflib
import os
import sqlite3
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from moltbot_audit.checkpoint import Signer
from moltbot_daemon.commands.shell import tell
from moltbot_daemon.inference import text_model
from moltbot_daemon.model_door import check_door
from moltbot_daemon.settings import Settings
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, MoltbotError
from moltbot_mesh.identity import load_mesh_key
from moltbot_mesh.settings import ENV_PREFIX, keys
from moltbot_models.tls import TlsFiles
from moltbot_router.source import read_table
from moltbot_tool.module import builtin_tools
from moltbot_watermark.master_key import load_master_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from moltbot_daemon.commands.shell import Shell

UPSTREAM_SECRETS = "upstream secrets"
"""The check whose finding costs its model alone: the mesh works without it."""
_OWN_NAMES = frozenset({"CONFIG"})
"""Environment variables that are read beside those of the settings."""
_NEAR = 0.7


class State(Enum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    """It works, but hardly as it is meant."""
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    found: str
    """What is there; if it is not as it should be, also how to mend it."""


class Doubt(Exception):
    """Raised by a check for a `WARNING`; the message says what and how to mend it."""


def finding(check: str, look: Callable[[], str]) -> Finding:
    """Run a check."""
    try:
        return Finding(check, State.OK, look())
    except Doubt as doubt:
        return Finding(check, State.WARNING, str(doubt))
    except MoltbotError as error:
        return Finding(check, State.BROKEN, error.message)
    except OSError as error:
        return Finding(check, State.BROKEN, f"{error.filename or check}: {error.strerror or error}")


def named_files(shell: Shell) -> Iterator[Finding]:
    """Check all that the configuration names: files, directories, and secrets of upstreams."""
    yield finding("environment", lambda: _environment(dict(os.environ)))
    yield finding("routing files", lambda: _routing(shell))
    yield finding(UPSTREAM_SECRETS, lambda: _secrets(shell))
    yield finding("text model", lambda: _text_model(shell))
    yield finding("TLS", lambda: _tls(shell))
    yield finding("models for other machines", lambda: _door(shell))
    yield finding("SQL database", lambda: _sql_database(shell))
    settings, data_dir = shell.settings, shell.places.data_dir
    yield finding("mesh key", lambda: _key_file(settings.mesh_key_file, data_dir / "mesh.key", load_mesh_key))
    mark_key = data_dir / "watermark" / "master.key"
    yield finding("watermark key", lambda: _key_file(settings.watermark.master_key_file, mark_key, load_master_key))
    yield finding(
        "audit key", lambda: _key_file(None, data_dir / "audit" / "log.key", lambda path: Signer.load(path, ""))
    )


def refuse_broken(findings: Iterable[Finding]) -> None:
    """Say the warnings.

    Raises:
        InvalidArgument: Something is broken; the message has all of it.
    """
    broken: list[str] = []
    for one in findings:
        if one.state is State.WARNING:
            tell(f"moltbot: warning: {one.check}: {one.found}")
        elif one.state is State.BROKEN:
            broken.append(f"{one.check}: {one.found}")
    if broken:
        raise InvalidArgument("\n".join(broken))


def _environment(environ: dict[str, str]) -> str:
    """Names that were surely meant for a setting and are none; others may be somebody else's."""
    known = {"__".join(key).upper() for key in keys(Settings)}
    sections = {name.partition("__")[0] for name in known if "__" in name}
    given = sorted(name.removeprefix(ENV_PREFIX) for name in environ if name.startswith(ENV_PREFIX))
    doubts: list[str] = []
    for name in given:
        if name in known or name in _OWN_NAMES:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
        if near or name.partition("__")[0] in sections:
            mend = f"; did you mean {ENV_PREFIX}{near[0]}?" if near else ""
            doubts.append(f"{ENV_PREFIX}{name} is not a setting and is ignored{mend}")
    if doubts:
        raise Doubt("\n".join(doubts))
    used = [name for name in given if name in known]
    return ", ".join(ENV_PREFIX + name for name in used) or "no settings in it"


def _routing(shell: Shell) -> str:
    table = read_table(shell.settings.router, 1)
    return f"{len(table.models)} models, {len(table.rules)} rules in files"


def _secrets(shell: Shell) -> str:
    try:
        table = read_table(shell.settings.router, 1)
    except MoltbotError:
        raise Doubt("not looked at: the routing files are not valid") from None
    problems: list[str] = []
    named = 0
    for manifest in table.models.values():
        named += manifest.auth.type != "none"
        try:
            manifest.auth.headers(os.environ)
            if manifest.tls.encrypts:
                TlsFiles(manifest.id, manifest.tls)
        except FailedPrecondition as error:
            problems.append(f"model {manifest.id}: {error.message}")
    if problems:
        raise FailedPrecondition("\n".join(problems))
    return f"{named} models need one" if named else "none are needed"


def _text_model(shell: Shell) -> str:
    settings = shell.settings.inference
    if settings.engine == "none":
        return "none: inference.engine is none"
    return str(text_model(settings))


def _tls(shell: Shell) -> str:
    chain, key = shell.settings.envoy.tls_certificate, shell.settings.envoy.tls_key
    if chain is None and key is None:
        return "off: the public port speaks plain HTTP"
    if chain is None or key is None:
        raise InvalidArgument("envoy: tls_certificate and tls_key belong together; set both or none")
    for path in (chain, key):
        with path.open("rb"):
            pass
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"{chain} and {key}: not a certificate chain and its key, both PEM ({error.reason})"
        ) from None
    return str(chain)


def _door(shell: Shell) -> str:
    settings = shell.settings.inference
    return f"open at {settings.listen}, by mutual TLS" if check_door(settings) else "none: inference.listen is empty"


def _sql_database(shell: Shell) -> str:
    settings = shell.settings.tool
    builtin_tools(settings)
    if settings.sql_database is None:
        return "none: sql_lookup is not offered"
    path = settings.sql_database.absolute()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            for table, columns in settings.sql_tables.items():
                there = {row[0] for row in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
                missing = [column for column in columns if column not in there]
                if missing:
                    what = f"table {table} has no column {', '.join(missing)}" if there else f"no table {table}"
                    raise InvalidArgument(f"{path}: {what}; mend tool.sql_tables")
    except sqlite3.Error as error:
        raise InvalidArgument(f"{path}: not a SQLite database ({error}); mend tool.sql_database") from None
    return f"{path}, tables: {', '.join(settings.sql_tables) or 'none (tool.sql_tables)'}"


def _key_file(named: Path | None, default: Path, load: Callable[[Path], object]) -> str:
    path = (named or default).expanduser()
    if not path.exists():
        if named is None:
            return "not made yet: the first start makes it"
        if not path.parent.is_dir():
            raise FailedPrecondition(f"{path}: its directory is not there; make it, or mend the setting")
        raise Doubt(f"{path}: not there; the first start makes a new one, which differs from that of other machines")
    if not path.is_file():
        raise FailedPrecondition(f"{path}: not a file; name the key's file")
    load(path)
    return str(path)
