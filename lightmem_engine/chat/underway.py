"""Turns that are under way, and what becomes of them when their user's memory is erased or changed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lightmem_engine.runtime.finished import Conversation
from lightmem_engine.types import ChatPlace, Scope

ERASED, CHANGED = "erased", "memory_changed"  # reasons in `degraded`
MAX_OPEN = 1 << 16  # turns that nobody has closed; beyond it the oldest are given up


@dataclass(slots=True, eq=False)
class Opening:
    """A turn that is being opened. is_erased: its user was erased since it began, so it stores nothing and shows
    nothing.   is_changed: something was deleted, so what it has found may not hold any more."""

    scope: Scope
    is_erased: bool = False
    is_changed: bool = False

    @property
    def trouble(self) -> str | None:
        """Why the turn shows less than it could."""
        return ERASED if self.is_erased else CHANGED if self.is_changed else None


@dataclass(frozen=True, slots=True)
class Opened:
    """A turn that waits for its reply. place: None if that is not to be kept.   read: what the model reads meanwhile,
    if that is all it reads, and under which salt."""

    scope: Scope
    place: ChatPlace | None
    read: Conversation | None = None


@dataclass(slots=True)
class Underway:
    """All turns of an engine between their first moment and their reply. Belongs to one event loop."""

    _opening: set[Opening] = field(default_factory=set)
    _opened: dict[str, Opened] = field(default_factory=dict)

    @contextmanager
    def opening(self, scope: Scope) -> Iterator[Opening]:
        """Hold while a turn is opened; what it yields hears of erasures."""
        opening = Opening(scope)
        self._opening.add(opening)
        try:
            yield opening
        finally:
            self._opening.discard(opening)

    def keep(self, turn_id: str, turn: Opened) -> None:
        """The turn is open."""
        self._opened[turn_id] = turn
        if len(self._opened) > MAX_OPEN:
            del self._opened[next(iter(self._opened))]

    def take(self, turn_id: str) -> Opened | None:
        """Close the turn."""
        return self._opened.pop(turn_id, None)

    def erase(self, scope: Scope) -> None:
        """The user is erased."""
        for opening in self._opening:
            opening.is_erased |= opening.scope == scope
        for turn_id in [id for id, turn in self._opened.items() if turn.scope == scope]:
            del self._opened[turn_id]

    def change(self, scope: Scope) -> None:
        """Something that the user's memory held is gone."""
        for opening in self._opening:
            opening.is_changed |= opening.scope == scope
        for turn_id, turn in self._opened.items():
            if turn.scope == scope:
                self._opened[turn_id] = replace(turn, read=None)
