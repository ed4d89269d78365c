"""How much background work a language model bears now: a pure function of what is known, so that it can be proven."""

from __future__ import annotations

from dataclasses import dataclass

MAX_KV_USAGE = 0.8  # beyond it a foreground request may have to wait for blocks


@dataclass(frozen=True, slots=True)
class Load:
    """What a model server says of itself: requests running and waiting, ours among them; share of its KV in use."""

    running: float
    waiting: float
    kv_usage: float


@dataclass(frozen=True, slots=True)
class Policy:
    """max_background: calls in flight at most.   reserved: sequence slots that background work leaves free, of `slots`
    (0: unknown).   max_wait: seconds after which a call runs beside the foreground.   preempts: whether calls in
    flight give way when a user comes.   pauses: the server lets them stand still itself, so they need not; they give
    way only when they hold too much of its KV. None is begun beside a user either way.   first_pause, longest_pause:
    before one that gave way asks again, doubling.
    """

    max_background: int
    max_wait: float = 30.0
    preempts: bool = False
    pauses: bool = False
    slots: int = 0
    reserved: int = 1
    first_pause: float = 0.05
    longest_pause: float = 2.0

    @property
    def ceiling(self) -> int:
        """Most background calls in flight, ever; at least one, or nothing would get done. Those that stand still keep
        their slots, so half of them stay free for chats."""
        if not self.slots:
            return self.max_background
        free = self.slots - self.reserved
        free = min(free, self.slots // 2) if self.pauses else free
        return max(1, min(self.max_background, free))

    def room(self, num_foreground: int, own: int, load: Load | None) -> int:
        """Background calls that may be in flight now, the aged ones aside.

        own: the most that were in flight since `load` was measured; the rest of what the server runs is other people's.
        """
        if load is not None and load.kv_usage > MAX_KV_USAGE:
            return 0
        if num_foreground:
            return 0
        if not self.pauses and load is not None and load.running + load.waiting > own:
            return 0
        return self.ceiling

    def pause(self, gave_way: int) -> float:
        """Seconds before a call that has given way so many times asks again."""
        return min(self.longest_pause, self.first_pause * 2.0 ** min(gave_way - 1, 30))
