"""Conversations that have just been answered, word for word as the model read them: in memory alone, and not for long.

A model that has just read a conversation can be asked about it behind its own prompt, and computes the question only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightmem_engine.types import Scope

MAX_CHARS = 8 << 20  # of all conversations together; beyond it the oldest go


@dataclass(frozen=True, slots=True)
class Conversation:
    """messages: what the model was sent, the reply behind it.   num_read: so many of them the model has read or
    written.   salt: of the caches of that.   thread: of conversation, as `types.CacheOwner` has it; 0: none."""

    messages: tuple[Mapping[str, Any], ...]
    num_read: int
    salt: str
    thread: int = 0

    @property
    def num_chars(self) -> int:
        """About how much memory it takes."""
        return sum(len(str(message.get("content", ""))) for message in self.messages)


class Finished:
    """The newest conversation of each session. Belongs to one event loop.

    seconds: after which one is forgotten: the model's caches of it have gone, too, by then. 0: nothing is held, because
    nobody will ask.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._known: OrderedDict[tuple[Scope, str], tuple[float, Conversation]] = OrderedDict()
        self._num_chars = 0

    def add(self, scope: Scope, session: str, conversation: Conversation) -> None:
        """A reply has ended."""
        self.drop(scope, session)
        if not self._seconds:
            return
        self._known[scope, session] = self._now(), conversation
        self._num_chars += conversation.num_chars
        while self._known and self._num_chars > MAX_CHARS:
            self.drop(*next(iter(self._known)))

    def find(self, scope: Scope, session: str) -> Conversation | None:
        """What was said last in a session, if that is not long ago."""
        self._expire()
        found = self._known.get((scope, session))
        return None if found is None else found[1]

    def drop(self, scope: Scope, session: str) -> None:
        """The session goes on, perhaps in another way."""
        found = self._known.pop((scope, session), None)
        if found is not None:
            self._num_chars -= found[1].num_chars

    def forget(self, scope: Scope) -> None:
        """Something of a user is erased or deleted."""
        for place in [place for place in self._known if place[0] == scope]:
            self.drop(*place)

    def _expire(self) -> None:
        before = self._now() - self._seconds
        while self._known:
            place, (at, _) = next(iter(self._known.items()))
            if at >= before:
                return
            self.drop(*place)
