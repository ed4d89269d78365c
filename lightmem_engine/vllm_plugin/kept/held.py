"""Which conversations vLLM still holds, or could load: what the owner is told when it asks what a prompt would cost."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightmem_engine.kv.store import KVStore
from lightmem_engine.types import KV_OWNER

MAX_CONVERSATIONS = 256  # that are remembered, those that ended last
MAX_SOUGHT = 16  # of them that are looked for on the disk, too


class HeldConversations:
    """Written by the scheduler, read by the thread that talks to the owner.

    size: tokens of a block.   stored: how many blocks from a place on lie on the disk; raises `sqlite3.Error`.
    """

    def __init__(self, size: int, stored: Callable[[Sequence[bytes], int], int]) -> None:
        self._size = size
        self._stored = stored
        self._is_held: Callable[[bytes], bool] | None = None
        self._ended: OrderedDict[int, list[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def look_by(self, is_held: Callable[[bytes], bool]) -> None:
        """Ask whether the device still has a block, by its hash."""
        self._is_held = is_held

    def ended(self, params: Mapping[str, Any] | None, hashes: Sequence[bytes]) -> None:
        """A request is over; its whole blocks stay in place until somebody needs the room."""
        owner = (params or {}).get(KV_OWNER)
        thread = owner.get("thread") if isinstance(owner, dict) else None
        if isinstance(thread, int) and self._is_held is not None:
            with self._lock:
                self._ended[thread] = list(hashes)
                self._ended.move_to_end(thread)
                if len(self._ended) > MAX_CONVERSATIONS:
                    self._ended.popitem(last=False)

    def tokens(self) -> list[tuple[int, int, int]]:
        """(thread, tokens from the front that need not be computed, those behind them), the newest first."""
        with self._lock:
            ended = list(reversed(self._ended.items()))
        found, sought = [], 0
        for thread, hashes in ended:
            count = self._on_device(hashes)
            if count < len(hashes) and sought < MAX_SOUGHT:
                sought += 1
                count += self._on_disk(hashes, count)
            found.append((thread, count * self._size, (len(hashes) - count) * self._size))
        return found

    def _on_device(self, hashes: Sequence[bytes]) -> int:
        assert self._is_held is not None
        for count, one in enumerate(hashes):
            if not self._is_held(one):
                return count
        return len(hashes)

    def _on_disk(self, hashes: Sequence[bytes], first: int) -> int:
        try:
            return self._stored(hashes, first)
        except sqlite3.Error:  # counted where it matters, when a request looks for its blocks
            return 0


def report_of(store: KVStore, held: HeldConversations | None = None) -> dict[str, Any]:
    """What one half tells the owner: what it has counted, and of which conversations something is left."""
    return {**store.counters.snapshot(), "held": [] if held is None else held.tokens()}
