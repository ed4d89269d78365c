"""What is left of conversations in the model server: on the device, on the disk, or nowhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from lightmem_engine.vllm_plugin.kept.held import MAX_CONVERSATIONS, MAX_SOUGHT, HeldConversations

SIZE = 32
HASHES = [bytes([n]) * 32 for n in range(5)]


def params(thread: Any) -> dict[str, Any]:
    return {"lightmem": {"tenant": "default", "user": "ann", "thread": thread, "link": 1}}


class Server:
    """Blocks on a device and on a disk."""

    def __init__(self) -> None:
        self.device, self.disk = set(HASHES), set[bytes]()
        self.asked = 0
        self.held = HeldConversations(SIZE, self.stored)
        self.held.look_by(self.device.__contains__)

    def stored(self, hashes: Sequence[bytes], first: int) -> int:
        self.asked += 1
        count = 0
        while first + count < len(hashes) and hashes[first + count] in self.disk:
            count += 1
        return count


def test_what_was_evicted_is_gone_from_its_place_on() -> None:
    server = Server()
    server.held.ended(params(7), HASHES)
    assert server.held.tokens() == [(7, 5 * SIZE, 0)]
    assert server.asked == 0
    server.device.discard(HASHES[2])
    assert server.held.tokens() == [(7, 2 * SIZE, 3 * SIZE)]
    server.disk.update(HASHES[2:4])
    assert server.held.tokens() == [(7, 4 * SIZE, SIZE)], "what can be loaded need not be computed"


def test_a_disk_that_cannot_be_asked_has_nothing() -> None:
    def broken(hashes: Sequence[bytes], first: int) -> int:
        raise sqlite3.OperationalError("locked")

    held = HeldConversations(SIZE, broken)
    held.look_by(lambda _: False)
    held.ended(params(7), HASHES)
    assert held.tokens() == [(7, 0, 5 * SIZE)]


def test_only_conversations_are_remembered_and_the_newest_first() -> None:
    server = Server()
    for nobody in (None, {}, {"lightmem": None}, {"lightmem": "x"}, params("x"), {"other": 1}):
        server.held.ended(nobody, HASHES)
    assert server.held.tokens() == []
    server.held.ended(params(1), HASHES[:1])
    server.held.ended(params(2), HASHES[:2])
    server.held.ended(params(1), HASHES[:3])  # goes on
    assert [thread for thread, _, _ in server.held.tokens()] == [1, 2]
    for thread in range(MAX_CONVERSATIONS + 5):
        server.held.ended(params(thread), HASHES)
    assert len(server.held.tokens()) == MAX_CONVERSATIONS
    server.device.clear()
    server.held.tokens()
    assert server.asked == MAX_SOUGHT


def test_without_a_look_at_the_device_nothing_is_said() -> None:
    held = HeldConversations(SIZE, lambda hashes, first: 0)
    held.ended(params(1), HASHES)
    assert held.tokens() == []
