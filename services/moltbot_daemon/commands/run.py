"""`daemon` and `serve`: the commands that stay."""

from __future__ import annotations

import gc
import resource
import sys
from typing import TYPE_CHECKING

from moltbot_daemon import daemon, front, inference, serve
from moltbot_daemon.commands.checks import UPSTREAM_SECRETS, named_files, refuse_broken
from moltbot_daemon.commands.setup import first_admin_key, said_of_first
from moltbot_daemon.commands.shell import OK, Shell, tell
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Coroutine


_OPEN_FILES = 65_536


def _allow_open_files() -> None:
    """Raise the soft limit on open files, also for children.

    Each client and each request holds some; 1024, the usual limit, would end a busy front door before its own do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(work: Coroutine[object, object, int]) -> int:
    import uvloop  # noqa: PLC0415 - only what stays needs it

    async def main() -> int:
        # The loop notes every asynchronous generator, to close at its end what is left: some microseconds for each of
        # a request's. Ours are closed by who opened them; one that is lost is still closed when it is collected.
        sys.set_asyncgen_hooks(firstiter=None)
        return await work

    _allow_open_files()
    return uvloop.run(main())


def _freeze_heap() -> None:
    """What was made by now stays: later garbage collections need not look at it."""
    gc.collect()
    gc.freeze()


def run_daemon(shell: Shell) -> int:
    """Run everything until told to stop."""
    if shell.settings.etcd.endpoints:
        raise InvalidArgument(
            "etcd.endpoints is set, and the daemon keeps everything in its data directory; leave it empty, or run the "
            "services one by one with `moltbot serve SERVICE`"
        )
    refuse_broken(one for one in named_files(shell) if one.check != UPSTREAM_SECRETS)

    async def work() -> int:
        found = shell.made()
        async with daemon.serving(shell.settings, found, lambda text: tell(f"moltbot: {text}")) as started:
            key = await first_admin_key(shell)  # not before it serves: a start that fails would not show it
            _freeze_heap()
            result = {"url": started.url, "data_dir": str(found.data_dir), "admin_key": key}
            lines = [f"moltbot serves {started.url} after {started.seconds:.1f} s, data in {found.data_dir}"]
            if key:
                lines += said_of_first(shell, key)
            lines.append(f"try: curl {started.url}/v1/models -H 'Authorization: Bearer {key or '<key>'}'")
            shell.show(result, "\n".join(lines))
            await daemon.until_told()
            tell("moltbot: stopping; running requests may end")
        return OK

    return _run(work())


def run_service(shell: Shell) -> int:
    """Run one service until told to stop."""

    async def work() -> int:
        found = shell.made()
        name = shell.args.service
        if name == "envoy":
            async with front.serving(shell.settings, found) as url:
                shell.show({"service": name, "url": url}, f"envoy serves {url}")
                await daemon.until_told()
            return OK
        if name == "triton":
            settings = shell.settings
            async with inference.serving(
                settings.inference, found, lambda text: tell(f"moltbot: {text}"), settings.telemetry.traces_url
            ) as file:
                shell.show({"service": name, "manifests": str(file)}, f"triton serves the models of {file}")
                await daemon.until_told()
            return OK
        async with serve.serving(shell.settings, found, name) as mesh:
            _freeze_heap()
            shell.show({"service": name, "port": mesh.ports[0]}, f"{name} serves port {mesh.ports[0]}")
            await daemon.until_told()
        return OK

    return _run(work())
