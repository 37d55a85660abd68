"""The `moltbot` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from moltbot_daemon.commands.model_arguments import add_model_commands
from moltbot_daemon.commands.shell import FAILED, UNAVAILABLE, USAGE, add_common, open_shell, tell
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, MoltbotError, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_COMMANDS = {
    "init": "setup:init",
    "doctor": "doctor:doctor",
    "config check": "setup:config_check",
    "config show": "setup:config_show",
    "config diff": "setup:config_diff",
    "keys create": "setup:keys_create",
    "keys enrol": "setup:keys_enrol",
    "keys unlock": "setup:keys_unlock",
    "keys list": "setup:keys_list",
    "keys revoke": "setup:keys_revoke",
    "daemon": "run:run_daemon",
    "serve": "run:run_service",
    "status": "ask:status",
    "models list": "model:model_list",
    "model list": "model:model_list",
    "model add": "model_add:add",
    "model build": "model_build:build_model",
    "model bench": "model_bench:bench",
    "model import": "model_add:import_model",
    "model show": "model:show_model",
    "model remove": "model:remove",
    "model verify": "model:verify",
    "chat": "ask:chat",
    "audit verify": "audit:verify",
    "audit export": "audit:export",
    "audit gaps": "audit_gaps:gaps",
    "audit verifier": "audit:verifier",
    "audit witness": "witness:witness",
    "audit trace": "audit_ask:trace",
    "audit body": "audit_ask:body",
    "audit shred": "audit_ask:shred",
    "audit hold": "audit_ask:hold",
    "audit release": "audit_ask:release",
    "audit holds": "audit_ask:holds",
    "audit sql": "audit_sql:sql",
    "audit parquet": "audit_sql:parquet",
    "watermark detect": "ask:watermark_detect",
}
_EPILOG = (
    "exit codes: 0 done, 1 failed, 64 wrong use or configuration, 65 damaged or nothing found, 69 not reachable, "
    "130 ended by Ctrl-C"
)
_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Ends with our exit code for wrong use, and without guessing at shortened options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}; `{self.prog} --help` says more\n")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(prog="moltbot", description="A private agent mesh.", epilog=_EPILOG)
    top.add_argument("--version", action="version", version=version("moltbot"))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(to: Any, name: str, about: str) -> argparse.ArgumentParser:
        one = to.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=_EPILOG)
        add_common(one)
        return one

    def group(name: str, about: str) -> Any:
        one = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=_EPILOG)
        return one.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")

    add(commands, "init", "write a commented configuration, the data directory, keys and the first admin key")
    daemon = add(commands, "daemon", "run everything in one process, behind one port")
    daemon.add_argument("--model-path", type=Path, metavar="DIR", help="text model: a Hugging Face directory")
    daemon.add_argument("--port", type=int, help="public port (8080)")
    daemon.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve = add(commands, "serve", "run one service, found by the others through etcd")
    serve.add_argument(
        "service", metavar="SERVICE", help="gateway, router, context, tool, audit, watermark, envoy, or triton"
    )
    serve.add_argument("--port", type=int, help="public port of envoy (8080)")
    chat = add(commands, "chat", "talk to a model of the running daemon")
    chat.add_argument("text", nargs="*", metavar="TEXT", help="the question; without one, line by line")
    chat.add_argument("--model", help="model id; the router chooses without one")
    chat.add_argument("--session", help="remember the conversation under this name")
    chat.add_argument("--tools", action="store_true", help="let the model call the tools of the mesh")
    chat.add_argument("--tenant", default="default", help="for whom (default)")
    add(commands, "doctor", "check what is missing or broken, and say how to mend it")
    add(commands, "status", "say whether the daemon answers, and with which models")
    add_model_commands(add, group)
    keys = group("keys", "the API keys by which people and programs are known")
    create = add(keys, "create", "make a key and print it alone, once")
    create.add_argument("--tenant", required=True, metavar="NAME", help="whose key it is; a-z 0-9 . _ -")
    roles = create.add_mutually_exclusive_group()
    roles.add_argument("--admin", action="store_true", help="with the roles admin and user")
    roles.add_argument(
        "--role", action="append", choices=("user", "admin", "security", "auditor"), help="roles instead of user alone"
    )
    create.add_argument("--name", help="a note to know it by")
    add(keys, "list", "show all keys, never their text")
    revoke = add(keys, "revoke", "end a key, within a second")
    revoke.add_argument("id", metavar="ID", help="the part between the two underscores of mb_ID_…; see `keys list`")
    enrol = add(keys, "enrol", "enrol a device as an administrator's second factor; prints its URI alone, once")
    enrol.add_argument("id", metavar="ID", help="of the key; a device that it had is not valid any more")
    unlock = add(keys, "unlock", "end the lock of an administrator's key after wrong codes")
    unlock.add_argument("id", metavar="ID", help="of the key")
    config = group("config", "the configuration: file, environment and defaults")
    add(config, "check", "check the configuration and all that it names")
    add(config, "show", "show the configuration in force")
    add(config, "diff", "show what differs from the defaults")
    _audit(group("audit", "the audit log"), add)
    detect = add(group("watermark", "marks and fingerprints of answers"), "detect", "say whether the mesh made a text")
    detect.add_argument("file", metavar="FILE", help="a text file in UTF-8, or - for standard input")
    return top


def _audit_ask(audit: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    trace = add(audit, "trace", "show all that a trace has in the log, as the tree of what caused what")
    trace.add_argument("id", metavar="ID", help="32 hexadecimal digits, from a receipt or a traceparent")
    body = add(audit, "body", "show what a request said and was answered, if it is kept")
    body.add_argument("id", metavar="ID", help="audit id of the request")
    shred = add(audit, "shred", "destroy what is kept of a person or a trace; records and proofs stay")
    hold = add(audit, "hold", "forbid that something expires or is shredded; prints the hold's id")
    for one in (shred, hold):
        one.add_argument("--tenant", metavar="NAME", help="whose")
        one.add_argument("--subject", metavar="NAME", help="the person, as requests name it; with --tenant")
        one.add_argument("--trace", metavar="ID", help="a trace, 32 hexadecimal digits")
        one.add_argument("--reason", required=True, metavar="TEXT", help="why; it stands in the log")
    release = add(audit, "release", "end a hold")
    release.add_argument("id", metavar="ID", help="of the hold")
    release.add_argument("--reason", required=True, metavar="TEXT", help="why; it stands in the log")
    add(audit, "holds", "list the holds, newest first")


def _audit(audit: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    _audit_ask(audit, add)
    verify = add(audit, "verify", "check every record, tile and checkpoint of the log, or a bundle")
    verify.add_argument(
        "path", nargs="?", type=Path, metavar="DIR|FILE", help="the log's directory (DATA-DIR/audit/log), or a bundle"
    )
    verify.add_argument(
        "--key", help="the key that checkpoints must be signed with, as in log.key.pub (<name>+<id>+<base64>)"
    )
    verify.add_argument(
        "--since", type=Path, metavar="FILE", help="a checkpoint that was kept elsewhere; it must be extended"
    )
    verify.add_argument(
        "--expect", action="append", default=[], metavar="ID", help="an event that the bundle must prove; repeatable"
    )
    gaps = add(audit, "gaps", "list, for each producer, the records that it counted and the log does not have")
    gaps.add_argument("path", nargs="?", type=Path, metavar="DIR", help="the log's directory (DATA-DIR/audit/log)")
    export = add(audit, "export", "write records with a proof that others check without the mesh")
    selection = export.add_mutually_exclusive_group(required=True)
    selection.add_argument("--trace", metavar="ID", help="all events of a trace, 32 hexadecimal digits")
    selection.add_argument("--range", metavar="FIRST:END", help="records next to each other, by sequence")
    selection.add_argument("--event", metavar="ID", help="one event, such as the receipt of an answer")
    export.add_argument(
        "--since", type=Path, metavar="FILE", help="a checkpoint that was kept: prove that this extends it"
    )
    export.add_argument("--out", type=Path, metavar="FILE", help="where to write; standard output without one")
    witness = add(audit, "witness", "cosign the checkpoints of other people's logs, as long as these only grow")
    witness.add_argument("--log", action="append", required=True, metavar="KEY", help="verifier key of a log")
    witness.add_argument("--name", required=True, help="of the witness: a host name and path, such as example.org/w1")
    witness.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="where it keeps its key and what it saw"
    )
    witness.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    witness.add_argument("--port", type=int, default=8090, help="port to listen on (8090)")
    add(audit, "verifier", "print the program that checks bundles with Python and `cryptography` alone")
    sql = add(audit, "sql", "ask the whole log by SQL, with or without the daemon; itself logged")
    sql.add_argument(
        "statement", metavar="SELECT", help="over events, requests and requests_per_day; - for standard input"
    )
    sql.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the result (table)")
    sql.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds it may take (60)")
    sql.add_argument("--memory-mib", type=int, default=1024, metavar="N", help="MiB of memory it may take (1024)")
    parquet = add(audit, "parquet", "write the Parquet files of sealed segments that are missing")
    parquet.add_argument("--rebuild", action="store_true", help="write all of them again")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code.
    """
    # Read when gRPC is imported, so nothing above does that. Its fork handlers would hold up connections whenever a
    # child is started; none of ours forks without an exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    os.umask(0o077)  # what any part of the mesh writes is for its owner alone, also where it has no mode of its own
    args = parser().parse_args(argv)
    name = " ".join(filter(None, (args.command, getattr(args, "subcommand", None))))
    overrides = {
        "port": getattr(args, "port", None),
        "host": getattr(args, "host", None),
        "inference.model_path": str(args.model_path.absolute()) if getattr(args, "model_path", None) else None,
    }
    try:
        try:
            shell = open_shell(args, overrides)
        except InvalidArgument as error:
            if name != "doctor":
                raise
            return _function("doctor:undiagnosed")(args, error.message)
        return _function(_COMMANDS[name])(shell)
    except (InvalidArgument, NotFound, FailedPrecondition) as error:
        tell(f"moltbot: {error.message}")
        return USAGE
    except Unavailable as error:
        tell(f"moltbot: {error.message}")
        return UNAVAILABLE
    except MoltbotError as error:
        tell(f"moltbot: {error.message}")
        return FAILED
    except OSError as error:
        tell(f"moltbot: {error.filename}: {error.strerror}" if error.filename else f"moltbot: {error}")
        return FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _function(place: str) -> Callable[..., int]:
    """A command, imported when it is run: most need little."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(f"moltbot_daemon.commands.{module}"), function)


if __name__ == "__main__":
    sys.exit(main())
