"""`status`, `models`, `chat`, `watermark`: questions to a running mesh."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.api.httpbody_pb2 import HttpBody
from moltbot.gateway.v1 import gateway_pb2, gateway_pb2_grpc, openai_pb2_grpc
from moltbot.router.v1 import router_pb2, router_pb2_grpc
from moltbot.watermark.v1 import watermark_pb2, watermark_pb2_grpc

from moltbot_daemon.commands.local import mesh_channel
from moltbot_daemon.commands.shell import FAILED, FOUND_DAMAGE, OK, UNAVAILABLE, Shell, tell
from moltbot_mesh.errors import InvalidArgument, MoltbotError
from moltbot_models.manifest import taken
from moltbot_models.manifest_wire import TASKS
from moltbot_router.source import read_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_BREAKERS = {
    router_pb2.BREAKER_STATE_CLOSED: "ready",
    router_pb2.BREAKER_STATE_OPEN: "failing",
    router_pb2.BREAKER_STATE_HALF_OPEN: "recovering",
}


def status(shell: Shell) -> int:
    """Say whether the daemon answers requests, and with which models."""

    async def work() -> tuple[dict[str, Any], int]:
        async with mesh_channel(shell, "gateway") as channel:
            operations: Any = openai_pb2_grpc.OperationsServiceStub(channel)
            ready = await operations.Readyz(HttpBody(), timeout=5.0)
        models = await served_models(shell)
        told = json.loads(ready.data)
        is_ready = told["status"] == "ready"
        degraded = told.get("degraded", [])
        found = {"ready": is_ready, "degraded": degraded, "detail": ready.data.decode(), "models": models}
        return found, OK if is_ready else UNAVAILABLE

    found, code = asyncio.run(work())
    try:
        read_table(shell.settings.router, 1)
    except MoltbotError as error:
        tell(f"routing files are not valid, so the table read before stays in use:\n{error.message}")
    lines = ["ready" if found["ready"] else f"not ready: {found['detail']}"]
    lines += [f"away: {one}" for one in found["degraded"]]
    lines += [f"{m['id']:<28} {m['task']:<16} {m['state']:<10} {m['in_flight']} in flight" for m in found["models"]]
    shell.show(found, "\n".join(lines))
    return code


async def served_models(shell: Shell) -> list[dict[str, Any]]:
    """The models that the running mesh offers.

    Raises:
        MoltbotError: It does not answer.
    """
    async with mesh_channel(shell, "router") as channel:
        router: Any = router_pb2_grpc.RouterServiceStub(channel)
        page = await router.ListModels(router_pb2.ListModelsRequest(page_size=1000), timeout=5.0)
    return [
        {
            "id": status.manifest.id,
            "task": TASKS.get(status.manifest.task, ""),
            "revision": status.manifest.revision,
            "provider": status.manifest.provider,
            "endpoint": status.manifest.endpoint,
            "input_modalities": taken(status.manifest.input_modalities),
            "state": _BREAKERS.get(status.breaker, "unknown"),
            "in_flight": status.in_flight,
        }
        for status in page.models
    ]


def chat(shell: Shell) -> int:
    """Talk to a model: one question from the arguments, or line by line."""
    args = shell.args
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()

    async def answer(stub: Any, messages: list[gateway_pb2.Message]) -> str:
        """Ask; print the answer as it comes, or whole with `--json`."""
        request = gateway_pb2.StreamChatRequest(
            chat=gateway_pb2.ChatRequest(
                model=args.model or "",
                messages=messages,
                mesh=gateway_pb2.MeshOptions(session=args.session or "", tools=["*"] if args.tools else []),
            )
        )
        said: list[str] = []
        receipt = gateway_pb2.Receipt()
        answers: AsyncIterator[gateway_pb2.StreamChatResponse] = stub.StreamChat(request, timeout=600.0)
        async for piece in answers:
            said.append(piece.content)
            if piece.HasField("receipt"):
                receipt = piece.receipt
            if not args.json:
                print(piece.content, end="", flush=True)  # noqa: T201 - the answer
        text = "".join(said)
        ids = {"model": receipt.model, "request_id": receipt.request_id, "audit_id": receipt.audit_id}
        line = json.dumps({"content": text, **ids}, ensure_ascii=False) if args.json else ""
        print(line, flush=True)  # noqa: T201 - a line an answer
        return text

    async def work() -> None:
        async with mesh_channel(shell, "gateway", args.tenant) as channel:
            stub: Any = gateway_pb2_grpc.GatewayServiceStub(channel)
            messages: list[gateway_pb2.Message] = []
            for question in [" ".join(args.text)] if args.text else _lines(at_terminal):
                messages.append(gateway_pb2.Message(role=gateway_pb2.ROLE_USER, content=question))
                try:
                    said = await answer(stub, messages[-1:] if args.session else messages)
                except MoltbotError as error:
                    if args.text or not at_terminal:
                        raise
                    messages.pop()
                    tell(f"\nmoltbot: {error.message}")
                    continue
                messages.append(gateway_pb2.Message(role=gateway_pb2.ROLE_ASSISTANT, content=said))

    asyncio.run(work())
    return OK


def _lines(at_terminal: bool) -> Iterator[str]:
    """What is typed or piped in, line by line. Reading blocks the loop: nothing else runs in it meanwhile."""
    while True:
        # asyncio's own handler asks the loop, which waits here, to stop.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            line = input("> " if at_terminal else "")
        except EOFError:
            if at_terminal:
                print()  # noqa: T201 - the shell's prompt begins a line
            return
        finally:
            signal.signal(signal.SIGINT, before)
        if line.strip():
            yield line


def watermark_detect(shell: Shell) -> int:
    """Say whether the mesh made a text; exit code 65 if nothing was found."""
    name = shell.args.file
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        tell(f"moltbot: {name}: cannot be read: {error.strerror}; name a text file, or - for standard input")
        return FAILED
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name}: not UTF-8 (byte {error.start}); convert it, for example with iconv") from None

    async def work() -> watermark_pb2.DetectResponse:
        async with mesh_channel(shell, "watermark", "") as channel:
            stub: Any = watermark_pb2_grpc.WatermarkServiceStub(channel)
            return await stub.Detect(watermark_pb2.DetectRequest(text=text), timeout=60.0)

    found = asyncio.run(work())
    rows = [
        {
            "layer": watermark_pb2.Layer.Name(finding.layer).removeprefix("LAYER_").lower(),
            "tenant": finding.tenant,
            "model": finding.model,
            "request_id": finding.request_id,
            "audit_id": finding.audit_id,
            "kind": watermark_pb2.OutputKind.Name(finding.kind).removeprefix("OUTPUT_KIND_").lower(),
            "text_match": watermark_pb2.TextMatch.Name(finding.text_match).removeprefix("TEXT_MATCH_").lower(),
            "start": finding.start,
            "end": finding.end,
        }
        for finding in found.findings
    ]
    lines = [
        f"{row['layer']}: {row['kind']} of tenant {row['tenant']}, model {row['model'] or 'unknown'}, request "
        f"{row['request_id'] or 'unknown'}, audit id {row['audit_id'] or 'unknown'}, text {row['text_match']}"
        for row in rows
    ]
    verdict = watermark_pb2.Verdict.Name(found.verdict).removeprefix("VERDICT_").lower()
    shell.show({"verdict": verdict, "findings": rows}, "\n".join(lines) or "insufficient evidence: nothing was found")
    return OK if rows else FOUND_DAMAGE
