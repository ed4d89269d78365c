"""KV caches of earlier prompts, so that an unchanged prefix is not prefilled twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.models.roomy_cache import RoomyLayer, roomy_cache
from lightmem_engine.models.shifted import Stretch, find

Tokens = npt.NDArray[np.int64]


class PrefixCache:
    """The least recently used go first when `max_bytes` is exceeded. Used from one thread only.

    Only prompts of the same salt share anything: another user's equal words are not found. Of a thread of conversation
    one cache is held: a branch that was superseded leaves when the one in its place has been read.

    A stored cache is never handed out: `match` copies the shared part, because generation appends in place.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[int, tuple[Tokens, Any, int, str, int]] = OrderedDict()
        self._next_key = 0

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, tokens: Sequence[int], salt: str = "") -> tuple[int, Any]:
        """(n, cache): a private cache of the first n tokens with room for all, n as large as possible but below
        `len(tokens)`, so that there is one left to compute the next token from. (0, None) when nothing fits."""
        best, best_key = self._best(tokens, salt)
        if best == 0:
            return 0, None
        self._entries.move_to_end(best_key)
        return best, clone(self._entries[best_key][1], best, len(tokens))

    def reach(self, tokens: Sequence[int], salt: str) -> int:
        """How many tokens `match` would find."""
        return self._best(tokens, salt)[0]

    def shifted(self, tokens: Sequence[int], salt: str, begin: int) -> Stretch | None:
        """What of a prompt from `begin` on was read at another place; the longest stretch."""
        wanted = np.asarray(tokens, dtype=np.int64)
        found = [find(wanted, begin, entry[0], entry[1]) for entry in self._entries.values() if entry[3] == salt]
        return max((one for one in found if one is not None), key=lambda one: one.taken, default=None)

    def put(self, tokens: Sequence[int], cache: Any, salt: str = "", thread: int = 0) -> None:
        """Take over a cache that holds exactly these tokens; entries that are a prefix of it are dropped, and others of
        its thread of conversation, if it belongs to one.

        One that is itself a prefix of an entry, or larger than the whole budget, is not kept.
        """
        kept = np.asarray(tokens, dtype=np.int64)
        size = num_bytes(cache)
        if not len(kept) or size > self.max_bytes:
            return
        same_salt = {key: entry for key, entry in self._entries.items() if entry[3] == salt}
        shared = {key: _common(entry[0], kept) for key, entry in same_salt.items()}
        for key, length in shared.items():
            if length == len(kept):
                self._entries.move_to_end(key)
                return
        for key, (stored, _, _, _, other) in same_salt.items():
            if shared[key] == len(stored):
                thread = thread or other  # what goes on behind a conversation goes with it
                self._drop(key)
        for key, entry in same_salt.items():
            if thread and entry[4] == thread and key in self._entries:
                self._drop(key)
        self._entries[self._next_key] = (kept, cache, size, salt, thread)
        self._next_key += 1
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything, as erasure demands."""
        self._entries.clear()
        self.num_bytes = 0

    def _best(self, tokens: Sequence[int], salt: str) -> tuple[int, int]:
        wanted = np.asarray(tokens[:-1], dtype=np.int64)
        best, best_key = 0, -1
        for key, (stored, _, _, owner, _) in self._entries.items():
            shared = _common(stored, wanted) if owner == salt else 0
            if shared > best:
                best, best_key = shared, key
        return best, best_key

    def _drop(self, key: int) -> None:
        self.num_bytes -= self._entries.pop(key)[2]


def clone(cache: Any, num_tokens: int, room: int) -> Any:
    """A cache of its own with the first `num_tokens` tokens of this one, and room for `room`."""
    copy = roomy_cache(len(cache.layers), room)
    for mine, theirs in zip(copy.layers, cache.layers, strict=True):
        mine.update(theirs.keys[:, :, :num_tokens], theirs.values[:, :, :num_tokens])
    return copy


def num_bytes(cache: Any) -> int:
    """Bytes of all keys and values."""
    return sum(
        layer.num_bytes if isinstance(layer, RoomyLayer) else layer.keys.nbytes + layer.values.nbytes
        for layer in cache.layers
        if layer.is_initialized
    )


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return _common(np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64))


def _common(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    differing = np.flatnonzero(a[:length] != b[:length])
    return int(differing[0]) if len(differing) else length
