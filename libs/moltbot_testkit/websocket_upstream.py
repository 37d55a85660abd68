"""A scripted upstream that speaks the mesh's WebSocket protocol (`moltbot_models.providers.websocket`)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
from aiohttp import WSCloseCode, web

from moltbot_testkit.upstreams import Script, Seen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class FakeWebSocket:
    """Sends the script's pieces as JSON frames, or as plain text frames if `content_type` is text/plain.

    Args:
        script: May be replaced at any time; a request takes the one that stands when it comes.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.queue: list[Script] = []
        self.seen: list[Seen] = []
        self.requests = 0
        self.cancelled = 0
        self.left = asyncio.Event()
        """Set when a client leaves early."""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str, None]:
        """Serve on a free port while the context is open; yields the endpoint as a manifest names it."""
        app = web.Application()
        app.router.add_get("/ws", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
        finally:
            await runner.cleanup()

    async def wait_left(self, timeout_s: float = 10.0) -> None:
        """Wait until a client has left early.

        Raises:
            TimeoutError: None did.
        """
        async with asyncio.timeout(timeout_s):
            await self.left.wait()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        script = self.queue.pop(0) if self.queue else self.script
        if script.status >= 300:
            return web.Response(status=script.status, headers=dict(script.headers))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        frame = await socket.receive()
        if not isinstance(frame.data, str):
            return socket
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.path, headers, msgspec.json.decode(frame.data)))
        # The client's leaving is seen only while reading.
        reading = asyncio.ensure_future(socket.receive())
        sending = asyncio.ensure_future(self._send(socket, script))
        try:
            await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A client that breaks the connection cancels this handler.
            if not sending.done():
                self.cancelled += 1
                self.left.set()
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)
        await socket.close()
        return socket

    async def _send(self, socket: web.WebSocketResponse, script: Script) -> None:
        if script.body is not None:
            await socket.send_str(script.body.decode())
            return
        plain = script.content_type == "text/plain"
        await asyncio.sleep(script.delay_s)
        for sent, text in enumerate(script.chunks):
            if script.disconnect_after == sent:
                await socket.close(code=WSCloseCode.INTERNAL_ERROR)
                return
            await asyncio.sleep(script.between_s if sent else script.first_token_s)
            await socket.send_str(text if plain else msgspec.json.encode({"delta": text}).decode())
        if not plain and script.finish_reason is not None:
            usage = {"prompt_tokens": 5, "completion_tokens": len(script.chunks)}
            end = {"finish_reason": script.finish_reason} | ({"usage": usage} if script.usage else {})
            await socket.send_str(msgspec.json.encode(end).decode())
