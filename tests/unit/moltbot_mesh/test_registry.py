from __future__ import annotations

import asyncio
import contextlib

from moltbot_mesh.registry import InProcessRegistry, Instance


async def test_a_watch_tells_who_comes_and_goes() -> None:
    registry = InProcessRegistry()
    first, second = Instance("router", "a", "unix:/a"), Instance("router", "b", "unix:/b", {"zone": "1"})
    async with contextlib.aclosing(registry.watch("router")) as watch, asyncio.timeout(5):
        assert await anext(watch) == frozenset()
        async with registry.register(first):
            assert await anext(watch) == {first}
            async with registry.register(second):
                assert await anext(watch) == {first, second}
            assert await anext(watch) == {first}
        assert await anext(watch) == frozenset()


async def test_a_watch_is_not_woken_by_other_services() -> None:
    registry = InProcessRegistry()
    async with contextlib.aclosing(registry.watch("router")) as watch, asyncio.timeout(5):
        assert await anext(watch) == frozenset()
        async with registry.register(Instance("audit", "a", "unix:/a")), contextlib.AsyncExitStack() as stack:
            router = Instance("router", "a", "unix:/b")
            await stack.enter_async_context(registry.register(router))
            assert await anext(watch) == {router}


async def test_an_instance_that_came_again_is_not_removed_by_its_former_self() -> None:
    registry = InProcessRegistry()
    former, again = Instance("router", "a", "unix:/1"), Instance("router", "a", "unix:/2")
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(registry.register(former))
    async with registry.register(again):
        await stack.aclose()
        async with contextlib.aclosing(registry.watch("router")) as watch:
            assert await anext(watch) == {again}
