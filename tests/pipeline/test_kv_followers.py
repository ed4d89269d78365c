"""What connectors in other processes are told, and that an erasure waits for them."""

from __future__ import annotations

import asyncio
import time

import pytest

from lightmem_engine.pipeline import kv_followers
from lightmem_engine.pipeline.kv_followers import Followers


@pytest.fixture
def followers(monkeypatch: pytest.MonkeyPatch) -> Followers:
    monkeypatch.setattr(kv_followers, "POLL_SECONDS", 0.05)
    return Followers(lambda: ["old"])


async def test_who_is_new_gets_everything_and_then_what_changes(followers: Followers) -> None:
    first = await followers.follow("f", "", 0)
    assert (first["reset"], first["standing"]) == (True, ["old"])
    await followers.tell(["a", "b"], stands=True)
    await followers.tell(["a"], stands=False)
    news = await followers.follow("f", first["epoch"], first["seq"])
    assert (news["reset"], news["standing"], news["ended"]) == (False, ["b"], ["a"])
    quiet = await followers.follow("f", news["epoch"], news["seq"])
    assert (quiet["standing"], quiet["ended"]) == ([], [])


async def test_who_comes_from_another_owner_or_has_missed_too_much_begins_anew(followers: Followers) -> None:
    assert (await followers.follow("f", "another", 3))["reset"]
    first = await followers.follow("g", "", 0)
    await followers.tell([str(n) for n in range(kv_followers.MAX_EVENTS + 1)], stands=True)
    assert (await followers.follow("g", first["epoch"], first["seq"]))["reset"]


async def test_settling_waits_until_everybody_knows(followers: Followers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_followers, "POLL_SECONDS", 30.0)
    place = await followers.follow("f", "", 0)
    await followers.tell(["a"], stands=False)
    settling = asyncio.create_task(followers.settle())
    await asyncio.sleep(0.01)
    assert not settling.done()
    news = await followers.follow("f", place["epoch"], place["seq"])
    assert news["ended"] == ["a"]
    await asyncio.sleep(0.01)
    assert not settling.done()  # told, and not yet known there
    polling = asyncio.create_task(followers.follow("f", news["epoch"], news["seq"]))
    await asyncio.wait_for(settling, 10)
    polling.cancel()


async def test_who_has_gone_silent_is_waited_for_only_as_long_as_its_lease(
    followers: Followers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_followers, "LEASE_SECONDS", 0.05)
    monkeypatch.setattr(kv_followers, "_MARGIN_SECONDS", 0.01)
    began = time.monotonic()
    await followers.follow("f", "", 0)
    await followers.tell(["a"], stands=False)
    await followers.settle()
    assert time.monotonic() >= began + 0.06
    assert await _settles_at_once(followers), "it is forgotten"


async def test_without_followers_nobody_is_waited_for(followers: Followers) -> None:
    await followers.tell(["a"], stands=False)
    assert await _settles_at_once(followers)


async def _settles_at_once(followers: Followers) -> bool:
    """Whether it ends before anything else could have happened."""
    settling = asyncio.create_task(followers.settle())
    await asyncio.sleep(0)
    return settling.done()
