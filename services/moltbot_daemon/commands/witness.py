"""`audit witness`: cosigns the checkpoints of other people's logs."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from aiohttp import web

from moltbot_audit.adapters.witness_http import witness_application
from moltbot_audit.checkpoint import Cosigner, load_key
from moltbot_audit.witness import Witness
from moltbot_daemon.commands.shell import OK, Shell, tell
from moltbot_mesh.durable import make_directories
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def witness(shell: Shell) -> int:
    """Serve as a witness until told to stop; prints the verifier key."""
    args = shell.args
    make_directories(args.state)
    cosigner = Cosigner(load_key(args.state / "witness.key"), args.name)
    logs = _logs(args.log)
    application = witness_application(Witness(logs, cosigner, args.state / "logs"))
    asyncio.run(_serve(application, args.host, args.port, lambda: _tell(shell, cosigner, logs)))
    return OK


def _logs(keys: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in keys:
        name, plus, _ = key.strip().partition("+")
        if not plus:
            raise InvalidArgument("--log: not a verifier key; it reads <name>+<id>+<base64>, as in log.key.pub")
        found[name] = key.strip()
    return found


def _tell(shell: Shell, cosigner: Cosigner, logs: dict[str, str]) -> None:
    url = f"http://{shell.args.host}:{shell.args.port}"
    tell(f"moltbot: cosigning {', '.join(logs)} at {url}; put this into the log's `audit.witnesses`")
    shell.show({url: cosigner.verifier_key}, f"{url}: {cosigner.verifier_key}")


async def _serve(application: web.Application, host: str, port: int, ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        ready()
        await stop.wait()
    finally:
        await runner.cleanup()
