"""When background batches may run on a device that somebody waits for: a pure rule, so that it can be proven.

Somebody waits while foreground items are queued, and, where chats are answered on the same device by another process,
while a user has a chat under way. Background batches then stand still; so that nothing starves, one may run after all
when its first item has waited for `PATIENCE_SECONDS`, and they take no more than `SHARE` of the time. Among themselves
they go by class, but what has waited for `AGE_SECONDS` goes by age.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lightmem_engine.types import Priority

PATIENCE_SECONDS = 2.0
AGE_SECONDS = 30.0
SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Head:
    """The next item of one queue: its class, its place in the order of arrival, and when it arrived."""

    priority: int
    order: int
    arrived: float


@dataclass(frozen=True, slots=True)
class Choice:
    """head: whose queue is cut now; None: nobody's, look again after `wait` seconds (None: when something changes)."""

    head: Head | None
    wait: float | None = None


class Courtesy:
    """Of one device. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self.num_users = 0
        self._resume_at = float("-inf")

    def choose(self, heads: Iterable[Head], now: float) -> Choice:
        """Whose turn it is."""
        everybody = list(heads)
        foreground = [head for head in everybody if head.priority == Priority.FOREGROUND]
        background = [head for head in everybody if head.priority != Priority.FOREGROUND]
        first = min(foreground, key=lambda head: head.order, default=None)
        if not background:
            return Choice(first)
        next_ = min(background, key=lambda head: (now - head.arrived < AGE_SECONDS and head.priority, head.order))
        if first is None and not self.num_users:
            return Choice(next_)
        oldest = min(head.arrived for head in background)
        wait = max(oldest + PATIENCE_SECONDS, self._resume_at) - now
        if wait <= 0:
            return Choice(next_)
        return Choice(first, wait)

    def ran(self, began: float, ended: float) -> None:
        """A background batch has run."""
        self._resume_at = ended + (ended - began) * (1 / SHARE - 1)


@dataclass(frozen=True, slots=True)
class Slice:
    """How long a background batch may take, and what it may hold however long that takes: launching a batch has a price
    of its own, which would leave a slow launcher with one item at a time."""

    seconds: float
    min_tokens: int


class Pace:
    """How fast a lane is, so that a batch can be cut by time."""

    def __init__(self) -> None:
        self._rate = 0.0

    def ran(self, tokens: int, seconds: float) -> None:
        """A batch has run; the newest counts for a quarter."""
        rate = tokens / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.75 * self._rate + 0.25 * rate

    def tokens(self, slice: Slice) -> int:
        """That a slice has room for."""
        return max(slice.min_tokens, int(self._rate * slice.seconds))
