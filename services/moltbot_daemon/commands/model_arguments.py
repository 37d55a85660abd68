"""The grammar of `moltbot model`, apart from the commands: it needs no engine."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.manifest import Modality, Task
from moltbot_models.targets.build import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_SECONDS, _MOST_TOKENS = 86_400.0, 1 << 20


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `model add`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a Hugging Face directory, a GGUF file, or the URL of a server elsewhere"
    )
    parser.add_argument("--id", help="the name that clients ask for; of a directory, its name in lower case")
    parser.add_argument("--type", choices=get_args(Task), help="what it does, where its files do not say it")
    parser.add_argument(
        "--replace", action="store_true", help="replace a model of the same id, without a failed request"
    )
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until the daemon serves it")
    parser.add_argument("--context-length", type=int, metavar="TOKENS", help="prompt and answer together")
    parser.add_argument("--max-tokens", type=int, metavar="TOKENS", help="most tokens of an answer")
    parser.add_argument(
        "--tenant", action="append", metavar="NAME", help="who may use it; may be repeated; all without"
    )
    parser.add_argument(
        "--takes",
        action="append",
        choices=[modality for modality in get_args(Modality) if modality != "text"],
        help="what it takes beside text; may be repeated",
    )
    parser.add_argument("--label", action="append", metavar="KEY=VALUE", help="for people; may be repeated")
    here = parser.add_argument_group("models that run here")
    here.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="of the engine: weights=u8, step_tokens=128, …"
    )
    here.add_argument(
        "--gate-texts",
        type=Path,
        metavar="FILE",
        help="judge and calibrate on these, one a line; every third is held out",
    )
    here.add_argument(
        "--bound",
        action="append",
        metavar="CHECK=VALUE",
        help="what the gate demands: greedy_agreement=0.9, …",
    )
    here.add_argument("--no-gate", dest="gate", action="store_false", help="serve it without having judged it")
    here.add_argument("--sha256", metavar="DIGEST", help="what a GGUF file must have")
    there = parser.add_argument_group("upstreams")
    there.add_argument("--provider", choices=("openai", "generic_http", "websocket", "triton"), help="its protocol")
    there.add_argument("--no-check", dest="check", action="store_false", help="add it also if it does not answer now")
    there.add_argument("--upstream-model", metavar="NAME", help="what it is called there; the id without")
    there.add_argument("--key-env", metavar="NAME", help="environment variable that holds its API key")
    there.add_argument("--key-file", metavar="FILE", help="file that holds its API key")
    there.add_argument("--tls-ca", type=Path, metavar="FILE", help="authorities of its certificate; else the system's")
    there.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate of the mesh, where it asks for one")
    there.add_argument("--tls-key", type=Path, metavar="FILE", help="the key of that certificate")
    there.add_argument("--tls-server-name", metavar="NAME", help="in its certificate, where that is not the host")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `model bench`."""
    parser.add_argument("id", metavar="ID|DIR", help="a model that was added, or a directory")
    parser.add_argument("--clients", default="1,8,32", metavar="N,N", help="clients that ask at once (1,8,32)")
    parser.add_argument("--seconds", type=_seconds, default=5.0, metavar="S", help="for each number of clients (5)")
    parser.add_argument("--tokens-in", type=_count, default=32, metavar="N", help="of a prompt, about (32)")
    parser.add_argument("--tokens-out", type=_count, default=32, metavar="N", help="of an answer (32)")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="what is asked, one text a line, at least 36")
    parser.add_argument("--engine", choices=("triton", "embedded"), help="where it runs; Triton if it can be had")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write throughput over latency as SVG")
    tune = parser.add_argument_group("tuning")
    tune.add_argument("--tune", choices=("latency", "throughput"), help="look for options that make this better")
    tune.add_argument("--max-p99-ms", type=_seconds, metavar="MS", help="for throughput: what answers may take")
    tune.add_argument("--minutes", type=_seconds, default=10.0, metavar="M", help="no trial begins after so many (10)")
    tune.add_argument("--write", action="store_true", help="keep what was found; a running daemon takes it up")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0, at most {_MOST_SECONDS:g}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MOST_TOKENS:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to {_MOST_TOKENS}")
    return value


def add_model_commands(
    add: Callable[[Any, str, str], argparse.ArgumentParser], group: Callable[[str, str], Any]
) -> None:
    """Add `model` and its subcommands.

    Args:
        add: Adds a command to a group, with what all commands take.
        group: Makes a group of commands.
    """
    listed = "list the models, those of the files if no daemon runs"
    model = group("model", "the models of this installation")
    _add_arguments(add(model, "add", "add a model: a daemon that runs serves it at once"))
    imports = add(model, "import", "turn a GGUF file into a Hugging Face directory, and leave it at that")
    imports.add_argument("file", type=Path, metavar="FILE", help="a GGUF file")
    imports.add_argument("out", type=Path, metavar="DIR", help="the directory to make")
    _bench_arguments(add(model, "bench", "measure how fast a model is, or look for options that make it faster"))
    built = add(model, "build", "compile a model for another engine: TensorRT, vLLM, TensorRT-LLM")
    built.add_argument("id", metavar="ID|DIR", help="a model that was added, or a directory")
    built.add_argument("--target", choices=TARGETS, required=True, help="what is to serve it")
    built.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model repository to make")
    built.add_argument("--set", action="append", metavar="KEY=VALUE", help="precision=int8, queue_delay_us=200, …")
    built.add_argument("--gate-texts", type=Path, metavar="FILE", help="calibrate and judge on these, one a line")
    built.add_argument("--bound", action="append", metavar="CHECK=VALUE", help="what the gate demands")
    add(model, "list", listed)
    for name, about in (
        ("show", "show all that is known of a model: options, hashes, gate report"),
        ("remove", "forget a model; a directory of your own stays"),
        ("verify", "check the files of models against the hashes locked when they were added"),
    ):
        one = add(model, name, about)
        one.add_argument("id", metavar="ID", nargs="?" if name == "verify" else None, help="as `model list` shows it")
    add(group("models", "the same as `model list`"), "list", listed)


def id_of(name: str) -> str:
    """The id that a directory's or file's name suggests."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.").lower()


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """Read options of the form KEY=VALUE.

    Raises:
        InvalidArgument: One is written otherwise.
    """
    found: dict[str, str] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise InvalidArgument(f"{option} {text}: write key=value")
        found[key.strip()] = value.strip()
    return found
