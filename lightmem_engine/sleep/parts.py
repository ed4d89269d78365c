"""Pairs to decide, cut into prompts: targets that share entries are decided together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightmem_engine.types import SleepNote


@dataclass(frozen=True, slots=True)
class Part:
    """What one prompt is about. notes: the earliest first.   sources: place of a target -> places of its sources."""

    notes: tuple[SleepNote, ...]
    sources: Mapping[int, tuple[int, ...]]

    @property
    def num_pairs(self) -> int:
        """Pairs of target and source."""
        return sum(map(len, self.sources.values()))


def cut(notes: Sequence[SleepNote], sources: Mapping[int, Sequence[int]], most: int) -> list[Part]:
    """Parts of at most `most` notes, in order of their earliest target; a component with more is cut between targets.

    notes: all entries of a user, the earliest first.   sources: row of a target -> rows of its sources, the most
    similar first; of more than `most` - 1 the last are left for another time.
    """
    parts: list[Part] = []
    for component in _components(sources):
        chosen: dict[int, tuple[int, ...]] = {}
        rows: set[int] = set()
        for target in component:
            own = tuple(sources[target][: most - 1])
            if chosen and len(rows | {target, *own}) > most:
                parts.append(_part(notes, chosen))
                chosen, rows = {}, set()
            chosen[target] = own
            rows |= {target, *own}
        parts.append(_part(notes, chosen))
    return sorted(parts, key=lambda part: part.notes[min(part.sources)].place)


def _part(notes: Sequence[SleepNote], chosen: Mapping[int, tuple[int, ...]]) -> Part:
    rows = sorted({row for target, own in chosen.items() for row in (target, *own)})
    place = {row: index for index, row in enumerate(rows)}
    sources = {place[target]: tuple(sorted(place[row] for row in own)) for target, own in chosen.items()}
    return Part(tuple(notes[row] for row in rows), sources)


def _components(sources: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Targets that share entries, directly or through others; ascending within and by their first."""
    above: dict[int, int] = {}

    def top(row: int) -> int:
        above.setdefault(row, row)
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for target, own in sources.items():
        for source in own:
            above[top(source)] = top(target)
    found: dict[int, list[int]] = {}
    for target in sorted(sources):
        found.setdefault(top(target), []).append(target)
    return list(found.values())
