"""The arguments of `moltbot model add`, apart from the command: the command line's grammar needs no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from moltbot_models.manifest import Task

if TYPE_CHECKING:
    import argparse


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `model add`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a Hugging Face directory, or the URL of a server that runs elsewhere"
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
    parser.add_argument("--label", action="append", metavar="KEY=VALUE", help="for people; may be repeated")
    here = parser.add_argument_group("models that run here")
    here.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="of the engine: weights=u8, step_tokens=128, …"
    )
    there = parser.add_argument_group("upstreams")
    there.add_argument("--provider", choices=("openai", "generic_http", "websocket", "triton"), help="its protocol")
    there.add_argument("--no-check", dest="check", action="store_false", help="add it also if it does not answer now")
    there.add_argument("--upstream-model", metavar="NAME", help="what it is called there; the id without")
    there.add_argument("--key-env", metavar="NAME", help="environment variable that holds its API key")
    there.add_argument("--key-file", metavar="FILE", help="file that holds its API key")
