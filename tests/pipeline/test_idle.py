"""Sessions that fall silent are noticed, others are not."""

from __future__ import annotations

import asyncio
import time

from lightmem_engine.pipeline.idle import IdleTimers


async def test_a_touched_key_expires_later_and_once() -> None:
    expired: list[tuple[str, float]] = []
    start = time.monotonic()
    timers: IdleTimers[str] = IdleTimers(lambda key: expired.append((key, time.monotonic() - start)), time.monotonic)
    timers.touch("quiet", start + 0.02)
    timers.touch("busy", start + 0.02)
    timers.touch("busy", start + 0.08)
    while len(expired) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert [key for key, _ in expired] == ["quiet", "busy"]
    assert expired[1][1] >= 0.08


async def test_an_earlier_key_is_not_held_up_by_a_later_one() -> None:
    expired: list[str] = []
    now = time.monotonic()
    timers: IdleTimers[str] = IdleTimers(expired.append, time.monotonic)
    timers.touch("late", now + 60)
    timers.touch("soon", now + 0.01)
    while not expired:
        await asyncio.sleep(0.01)
    assert expired == ["soon"]
    timers.close()


async def test_closed_timers_say_nothing() -> None:
    expired: list[str] = []
    timers: IdleTimers[str] = IdleTimers(expired.append, time.monotonic)
    timers.touch("a", time.monotonic() + 0.01)
    timers.close()
    await asyncio.sleep(0.05)
    assert expired == []
