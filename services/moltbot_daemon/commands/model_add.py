"""`model add`, `model import`: from a directory, a file or a URL to what is served."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from moltbot_daemon.commands.ask import served_models
from moltbot_daemon.commands.local import listens
from moltbot_daemon.commands.model_arguments import id_of, pairs
from moltbot_daemon.commands.model_gate import calibrated, judged
from moltbot_daemon.commands.progress import told_while_hashing
from moltbot_daemon.commands.shell import FAILED, OK, Shell, tell
from moltbot_daemon.node_models import STATES, followed, read_states
from moltbot_mesh.audit.administration import SPILL, administration_event
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_models.gate.report import GateFailed
from moltbot_models.manifest import Auth, Manifest, Task, problems_of, taken
from moltbot_models.store.catalogue import WEIGHTS, Entry, ModelStore
from moltbot_models.store.lock import hash_file, hash_files
from moltbot_models.store.source import inspect
from moltbot_models.tls import Tls
from moltbot_models.triton.repository import checked_options

if TYPE_CHECKING:
    import argparse

    from moltbot_models.formats.gguf_import import Imported

_URL = re.compile(r"^(https?|wss?|grpcs?|unix):")
_PROVIDERS = {
    "http": "openai",
    "https": "openai",
    "unix": "openai",
    "ws": "websocket",
    "wss": "websocket",
    "grpc": "triton",
    "grpcs": "triton",
}
_SERVED_S, _PROBE_S = 600.0, 10.0
_TENANT = "default"


def add(shell: Shell) -> int:
    """Add a model and wait until a running daemon serves it."""
    args, store = shell.args, ModelStore(shell.made().models_dir)
    source = str(args.source)
    if _URL.match(source):
        manifest = _upstream(args, source)
    elif source.endswith(".gguf"):
        manifest = _imported(args, store, Path(source))
    else:
        manifest = _local(args, Path(source))
    for key, message in problems_of(manifest):
        raise InvalidArgument(_as_typed(key, message))
    _refuse_second(args, store, manifest.id)
    hashes: dict[str, str] = {}
    report = None
    if manifest.path:
        hashes = hash_files(Path(manifest.path), told_while_hashing())
        manifest = calibrated(manifest, store.folder(manifest.id), args)
        report = judged(manifest, hashes, args)
        if report is not None and not report.passed and store.has(manifest.id):
            _forget_ranges(manifest, store)
            raise GateFailed(report)  # what serves now is not given up for what cannot
    elif args.check:
        asyncio.run(_answers(manifest, shell.places.cache_dir))
    began_s = time.time()
    entry = store.put(manifest, hashes, report)
    administration_event(shell.places.data_dir / SPILL, "model add", f"model:{manifest.id}", _TENANT)
    if report is not None:
        report.require()
    state = _await_served(shell, entry, began_s) if args.wait else None
    if not followed(shell.places.run_dir) or (state is not None and state.state == "serving"):
        store.forget_earlier(entry)  # not before: until then the former version may have to be loaded again
    return _tell_added(shell, entry, state)


def _as_typed(key: str, message: str) -> str:
    """A problem of a manifest in the words of this command."""
    if key != "tls":
        return f"--{key.replace('_', '-')}: {message}"
    for field, option in (("tls.cert_file", "--tls-cert"), ("tls.key_file", "--tls-key"), ("tls is", "--tls-… is")):
        message = message.replace(field, option)
    return message


def _forget_ranges(manifest: Manifest, store: ModelStore) -> None:
    """Delete what was calibrated for a version that came to nothing."""
    file = Path(manifest.options.get("ranges", ""))
    kept = store.get(manifest.id).manifest.options.get("ranges")
    if file.parent == store.folder(manifest.id) and str(file) != kept:
        file.unlink(missing_ok=True)


def _local(args: argparse.Namespace, path: Path, model_id: str = "") -> Manifest:
    """A manifest for a directory on this machine."""
    if _tls(args) != Tls():
        raise InvalidArgument(
            "--tls-… is for upstreams; a model that runs here is reached through the node's own Triton"
        )
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - links stay links
    found = inspect(path, args.context_length)
    task = cast("Task", args.type or found.task)
    model_id = model_id or args.id or id_of(path.name)
    options = pairs("--set", args.set)
    checked_options(model_id, task, options)
    manifest = Manifest(
        model_id, task, "triton", path=str(path), context_length=found.context_length, marks=task == "text-generation"
    )
    seen = taken(("image",)) if found.takes_images else ()
    return dataclasses.replace(manifest, options=options, **{"input_modalities": seen, **_common(args)})


def _imported(args: argparse.Namespace, store: ModelStore, file: Path) -> Manifest:
    """Import a GGUF file into the store and describe what came of it."""
    digest = hash_file(file, told_while_hashing())
    if args.sha256 and digest != args.sha256.lower():
        raise InvalidArgument(f"{file}: its sha256 is {digest}, not {args.sha256}; download it again")
    model_id = args.id or id_of(file.stem)
    _refuse_second(args, store, model_id)
    weights = store.folder(model_id) / f"{WEIGHTS}-{digest[:16]}"
    if not weights.exists():
        tell(f"moltbot: importing {file.name}")
        import_file(file, weights)
    manifest = _local(args, weights, model_id)
    return dataclasses.replace(manifest, labels={**manifest.labels, "source": file.name, "source-sha256": digest})


def import_file(file: Path, out: Path) -> Imported:
    """Turn a GGUF file into a Hugging Face directory, telling how far it is."""
    from moltbot_models.formats.gguf_import import import_gguf  # noqa: PLC0415 - needs numpy and tokenizers

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rtensors {done}/{total}", end=end, file=sys.stderr, flush=True)  # noqa: T201 - progress

    return import_gguf(file, out, told)


def import_model(shell: Shell) -> int:
    """Turn a GGUF file into a Hugging Face directory, and leave it at that."""
    found = import_file(shell.args.file, shell.args.out)
    about = {"path": str(found.path), "architecture": found.architecture, "parameters": found.parameters}
    about |= {"size_bytes": found.size_bytes, "kinds": dict(found.kinds), "name": found.name, "license": found.license}
    millions = found.parameters / 1e6
    shell.show(about, f"{found.path}: {found.architecture}, {millions:.1f} M parameters, {found.size_bytes >> 20} MiB")
    return OK


def _refuse_second(args: argparse.Namespace, store: ModelStore, model_id: str) -> None:
    if store.has(model_id) and not args.replace:
        raise InvalidArgument(f"a model {model_id!r} was added already; give another --id, or --replace")


def _upstream(args: argparse.Namespace, url: str) -> Manifest:
    """A manifest for a server that runs elsewhere."""
    scheme = url.partition(":")[0]
    provider = args.provider or _PROVIDERS[scheme]
    if not args.id:
        raise InvalidArgument("an upstream needs --id, the name that clients ask for")
    if args.set:
        raise InvalidArgument("--set is for models that run here; an upstream has its own settings")
    endpoint = url.removeprefix("grpc://") if scheme == "grpc" else url
    secret: dict[str, Any] = {"key_env": args.key_env or "", "key_file": args.key_file or ""}
    auth = Auth("bearer", **secret) if any(secret.values()) else Auth()
    manifest = Manifest(
        args.id,
        cast("Task", args.type or "text-generation"),
        provider,
        endpoint=endpoint,
        upstream_model=args.upstream_model or "",
        auth=auth,
        tls=_tls(args),
        context_length=args.context_length or 0,
    )
    return dataclasses.replace(manifest, **_common(args))


def _tls(args: argparse.Namespace) -> Tls:
    """The files by which an upstream and the mesh know each other; found from any directory."""
    given: tuple[Path | None, ...] = (args.tls_ca, args.tls_cert, args.tls_key)
    ca, cert, key = ("" if file is None else str(file.expanduser().absolute()) for file in given)
    return Tls(ca, cert, key, args.tls_server_name or "")


async def _answers(manifest: Manifest, cache_dir: Path) -> None:
    """Ask an upstream whether it is there.

    Raises:
        MoltbotError: It does not answer, or its secret is not there.
    """
    from moltbot_models.providers import open_upstream  # noqa: PLC0415 - brings an HTTP client
    from moltbot_models.providers.base import UpstreamContext  # noqa: PLC0415
    from moltbot_models.providers.engines import EngineHost  # noqa: PLC0415

    upstream = open_upstream(manifest, UpstreamContext(cache_dir, os.environ, EngineHost()))
    try:
        async with asyncio.timeout(_PROBE_S):
            await upstream.probe()
    except TimeoutError:
        raise Unavailable(f"{manifest.id}: no answer within {_PROBE_S:g} s; --no-check adds it all the same") from None
    except Unavailable as error:
        raise Unavailable(f"{error.message}; --no-check adds it all the same", reason=error.reason) from None
    finally:
        await upstream.aclose()


def _common(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"labels": pairs("--label", args.label), "tenants": tuple(args.tenant or ())}
    if args.takes:
        found["input_modalities"] = taken(args.takes)
    if args.max_tokens:
        found["max_tokens"] = args.max_tokens
    return found


def _await_served(shell: Shell, entry: Entry, began_s: float) -> Any:
    """The state of a model in the running daemon; None if no daemon runs."""
    places, model_id = shell.places, entry.manifest.id
    if not followed(places.run_dir):
        return None
    until_s, told = time.monotonic() + _SERVED_S, False
    while time.monotonic() < until_s and followed(places.run_dir):
        state = read_states(places.run_dir).get(model_id)
        try:
            fresh = (places.run_dir / STATES).stat().st_mtime >= began_s - 0.01
        except OSError:
            fresh = False
        if fresh and state is not None and state.revision == entry.manifest.revision and state.state != "loading":
            if state.state == "serving":
                _await_routed(shell, entry.manifest)
            return state
        if state is not None and state.state == "loading" and not told:
            told = True
            tell(f"moltbot: the daemon loads {model_id}")
        time.sleep(0.1)
    return None


def _await_routed(shell: Shell, manifest: Manifest) -> None:
    """Wait until requests find this version of the model: the router looks at its files now and then."""
    if not (shell.settings.etcd.endpoints or listens(shell.places.mesh_socket)):
        return  # a node that only serves models has no router
    until_s = time.monotonic() + _PROBE_S
    while time.monotonic() < until_s:
        found: list[dict[str, Any]] = []
        with contextlib.suppress(MoltbotError):  # asked again
            found = asyncio.run(served_models(shell))
        if any((one["id"], one["revision"]) == (manifest.id, manifest.revision) for one in found):
            return
        time.sleep(0.1)
    tell(f"moltbot: the router does not offer {manifest.id} yet; it looks at its files each router.reload_interval_s")


def _tell_added(shell: Shell, entry: Entry, state: Any) -> int:
    manifest = entry.manifest
    shown: dict[str, Any] = {"id": manifest.id, "revision": manifest.revision, "folder": str(entry.folder)}
    if state is None:
        shown["state"] = "added"
        shell.show(shown, f"added {manifest.id}; a daemon on {shell.places.data_dir} serves it")
        return OK
    shown |= dataclasses.asdict(state)
    if state.state == "failed":
        shell.show(shown, f"added {manifest.id}, but the daemon cannot serve it: {state.detail}")
        return FAILED
    shell.show(shown, f"{manifest.id} is served (loaded in {state.seconds:.1f} s)")
    return OK
