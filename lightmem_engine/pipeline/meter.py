"""What a run of sleep has spent of its budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightmem_engine.types import SleepRun


@dataclass(slots=True)
class Meter:
    """What a run has spent, over restarts too."""

    run: SleepRun
    monotonic: Callable[[], float]
    calls: int = 0
    tokens: int = 0
    lapped: float = 0.0
    seconds: float = 0.0
    left_over: int = 0  # pairs that the budget did not allow for
    is_cut: bool = False  # the budget ended the run

    def __post_init__(self) -> None:
        self.calls, self.seconds = self.run.calls, self.run.seconds
        self.tokens = self.run.prompt_tokens + self.run.completion_tokens
        self.lapped = self.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = self.monotonic()
        elapsed, self.lapped = now - self.lapped, now
        self.seconds += elapsed
        return elapsed

    @property
    def is_spent(self) -> bool:
        """Whether the budget allows no further call."""
        budget = self.run.budget
        return _reached(budget.max_calls, self.calls) or _reached(budget.max_tokens, self.tokens) or self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the run has gone on for as long as it may."""
        return _reached(self.run.budget.max_seconds, self.seconds + self.monotonic() - self.lapped)


def _reached(limit: float | None, spent: float) -> bool:
    return bool(limit) and spent >= (limit or 0)
