"""A stretch of a prompt that was read before at another place: behind a changed beginning, say. See `kv_rotate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.models.kv_rotate import Rotation

Tokens = npt.NDArray[np.int64]
COMPUTED = 16  # tokens at the beginning of a stretch that are computed anew: what follows attends to them most
MIN_TAKEN = 64  # tokens; fewer are computed
_ANCHOR = 32  # tokens that are looked for
MAX_ANCHORS = 128  # of one prompt


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens [start, stop) of a prompt stand at `source` in what a cache holds; the first `COMPUTED` of them are not
    taken from it."""

    start: int
    stop: int
    source: int
    cache: Any

    @property
    def taken(self) -> int:
        """How many are."""
        return self.stop - self.start - COMPUTED

    def copy_into(self, cache: Any, rotation: Rotation) -> None:
        """Append keys and values to a cache that holds what stands before."""
        first, last = self.source + COMPUTED, self.source + self.stop - self.start
        for mine, theirs in zip(cache.layers, self.cache.layers, strict=True):
            keys = rotation.turn(theirs.keys[:, :, first:last], self.start - self.source)
            mine.update(keys, theirs.values[:, :, first:last])


def find(wanted: Tokens, begin: int, stored: Tokens, cache: Any) -> Stretch | None:
    """The longest stretch of `wanted` from `begin` on, but for its last token, that stands in `stored`; None if it is
    too short."""
    stop = len(wanted) - 1
    best: Stretch | None = None
    at = begin
    for _ in range(MAX_ANCHORS):
        if at + _ANCHOR > stop:
            break
        place = _place(stored, wanted[at : at + _ANCHOR])
        if place is None:
            at += _ANCHOR
            continue
        before = _alike(wanted[begin:at][::-1], stored[:place][::-1])
        behind = _alike(wanted[at:stop], stored[place:])
        found = Stretch(at - before, at + behind, place - before, cache)
        if found.taken >= MIN_TAKEN and (best is None or found.taken > best.taken):
            best = found
        at += behind
    return best


def _place(stored: Tokens, anchor: Tokens) -> int | None:
    """Where a row of tokens stands."""
    content, row, size = stored.tobytes(), anchor.tobytes(), stored.itemsize
    at = content.find(row)
    while at >= 0:
        if at % size == 0:
            return at // size
        at = content.find(row, at + 1)
    return None


def _alike(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    differing = np.flatnonzero(a[:length] != b[:length])
    return int(differing[0]) if len(differing) else length
