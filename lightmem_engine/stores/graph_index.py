"""Which documents speak of whom, and a walk over it from the names in a question.

Documents and names are the two sides of a graph; documents of a session are linked to their neighbours besides. A
personalised PageRank that begins at the names a question holds reaches what speaks of them, what was said beside it,
and, over names that these share with others, what no word of the question leads to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightmem_engine.mentions import MAX_NAME_WORDS
from lightmem_engine.stores.columns import Column
from lightmem_engine.types import Floats

Slots = npt.NDArray[np.int32]
Mass = npt.NDArray[np.float64]

_ROUNDS = 4  # name to document and back
_RESTART = 0.4  # of the mass begins anew at the question's names
_BESIDE = 0.3  # of a document's mass goes to its neighbours


class GraphIndex:
    """The names of one user's documents, addressed by slot."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}
        self._slot = Column(np.int32)
        self._name = Column(np.int32)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return self._slot.nbytes + self._name.nbytes + sum(100 + len(name) for name in self._code)

    def add(self, slot: int, names: Sequence[str]) -> None:
        """A document speaks of these."""
        for name in names:
            self._slot.append(slot)
            self._name.append(self._code.setdefault(name, len(self._code)))

    def compact(self, new_slot: Slots) -> None:
        """Renumber: slot s becomes new_slot[s], negative for slots to forget; names that nobody speaks of go."""
        slots, names = new_slot[self._slot.values], self._name.values
        kept = slots >= 0
        used, renamed = np.unique(names[kept], return_inverse=True)
        place = {int(old): new for new, old in enumerate(used)}
        self._code = {name: place[code] for name, code in self._code.items() if code in place}
        self._slot.replace(slots[kept])
        self._name.replace(renamed.astype(np.int32))

    def walk(
        self, words: Sequence[str], live: npt.NDArray[np.bool_], before: Slots, after: Slots, *, far: bool = True
    ) -> Floats:
        """float32 [slots], at most 1; the root of how much of a walk from the names among `words` passes each live
        document.

        words: of a question, as `mentions.words` gives them.   before, after: neighbours of each slot, or -1.
        far: over further names, too; without, only what speaks of these and what stands beside it, in a tenth of the
        time.
        """
        slots, names = self._slot.values, self._name.values
        total = np.zeros(len(live), np.float64)
        asked = self._named(words)
        if not asked:
            return total.astype(np.float32)
        if not far:
            wanted = np.zeros(len(self._code), np.bool_)
            wanted[asked] = True
            there = wanted[names]
            slots, names = slots[there], names[there]
        there = live[slots]
        slots, names = slots[there], names[there]
        size = np.bincount(names, minlength=len(self._code)).astype(np.float64)
        asked = [code for code in asked if size[code]]
        if not asked:
            return total.astype(np.float32)
        weight = np.log1p(np.count_nonzero(live) / np.maximum(size, 1))
        begin = np.zeros(len(size))
        begin[asked] = weight[asked] / weight[asked].sum()
        held = np.maximum(np.bincount(slots, weight[names], minlength=len(live)), 1e-9)
        mass = begin
        for _ in range(_ROUNDS if far else 1):
            on: Mass = np.bincount(slots, (mass / np.maximum(size, 1))[names], minlength=len(live)).astype(np.float64)
            on = (1 - _BESIDE) * on + _BESIDE / 2 * (_taken(on, before) + _taken(on, after))
            total += on
            back = np.bincount(names, (on / held)[slots] * weight[names], minlength=len(size))
            mass = _RESTART * begin + (1 - _RESTART) * back
        total[~live] = 0
        # The root, because each step along a path keeps only a part of what came: what is far would count for nothing.
        return np.asarray(np.sqrt(total / max(float(total.max()), 1e-12)), np.float32)

    def _named(self, words: Sequence[str]) -> list[int]:
        """The known names that stand in a text, the longest first; a word belongs to one of them."""
        found: dict[int, None] = {}
        taken = [False] * len(words)
        for length in range(min(MAX_NAME_WORDS, len(words)), 0, -1):
            for start in range(len(words) - length + 1):
                if not any(taken[start : start + length]):
                    code = self._code.get(" ".join(words[start : start + length]))
                    if code is not None:
                        found[code] = None
                        taken[start : start + length] = [True] * length
        return list(found)


def _taken(mass: Mass, link: Slots) -> Mass:
    """What each document gets from the neighbour at the end of its link."""
    return np.append(mass, 0.0).take(link)
