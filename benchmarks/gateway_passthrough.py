"""The measure for the gateway's benchmark: a reverse proxy that forwards bytes and does nothing else.

Nothing is parsed, checked, counted, limited, recorded or retried. `python benchmarks/gateway_passthrough.py UPSTREAM`:
prints its port and serves.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

_PASSED_ON = ("Content-Type", "Content-Length")


async def main(upstream: str) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:
        base = upstream.removesuffix("/v1")

        async def forward(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            async with session.post(
                base + request.path, data=body, headers={"Content-Type": "application/json"}
            ) as got:
                headers = {name: got.headers[name] for name in _PASSED_ON if name in got.headers}
                response = web.StreamResponse(status=got.status, headers=headers)
                await response.prepare(request)
                async for data in got.content.iter_any():
                    await response.write(data)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_route("POST", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
