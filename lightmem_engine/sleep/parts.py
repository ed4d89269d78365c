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


def cut(
    notes: Sequence[SleepNote], sources: Mapping[int, Sequence[int]], most: int, *, singly: bool = False
) -> list[Part]:
    """Parts of at most `most` notes, in order of their earliest target. A component that fits is in one part, beside
    others if there is room; one with more notes is cut between targets. singly: a part for each target.

    notes: all entries of a user, the earliest first.   sources: row of a target -> rows of its sources, the most
    similar first; of more than `most` - 1 the last are left for another time.
    """
    parts: list[Part] = []
    chosen: dict[int, tuple[int, ...]] = {}
    for component in _components(sources):
        own = {target: tuple(sources[target][: most - 1]) for target in component}
        is_whole = not singly and len(_rows(own)) <= most
        for piece in [own] if is_whole else [{target: rows} for target, rows in own.items()]:
            if chosen and (singly or len(_rows(chosen) | _rows(piece)) > most):
                parts.append(_part(notes, chosen))
                chosen = {}
            chosen |= piece
    if chosen:
        parts.append(_part(notes, chosen))
    return sorted(parts, key=lambda part: part.notes[min(part.sources)].place)


def _rows(chosen: Mapping[int, Sequence[int]]) -> set[int]:
    """Every row that a part is about."""
    return {row for target, own in chosen.items() for row in (target, *own)}


def _part(notes: Sequence[SleepNote], chosen: Mapping[int, tuple[int, ...]]) -> Part:
    rows = sorted(_rows(chosen))
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
