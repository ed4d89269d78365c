"""Users are served in turn."""

from __future__ import annotations

import asyncio

from lightmem_engine.pipeline.ready import ReadySet
from lightmem_engine.types import Scope

A, B, C = (Scope(name) for name in "abc")


async def test_round_robin_without_doubles() -> None:
    ready = ReadySet()
    for scope in (A, B, A, C, B):
        ready.put(scope)
    assert await ready.take(2) == [A, B]
    ready.put(A)  # more work while it is served
    ready.done(A)
    ready.done(B, again=True)
    assert await ready.take(5) == [C, A, B]


async def test_a_user_is_never_served_twice_at_once() -> None:
    ready = ReadySet()
    ready.put(A)
    assert await ready.take(1) == [A]
    ready.put(A)
    waiting = asyncio.create_task(ready.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    ready.done(A)
    assert await waiting == [A]


async def test_take_waits_for_work() -> None:
    ready = ReadySet()
    waiting = asyncio.create_task(ready.take(1))
    await asyncio.sleep(0)
    ready.put(B)
    assert await waiting == [B]
    assert B in ready
    ready.done(B)
    assert B not in ready
