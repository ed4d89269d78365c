"""Whether a load is worth its time: what loading and computing cost on this machine, measured, and measured again with
every load and every prefill.

A load that is expected to take longer than computing is skipped; one that takes longer than that after all is
abandoned at the deadline, so the worst case is about twice the computation, once: the next one knows better. A rate
that was found bad recovers with time towards what was calibrated, so that a busy minute does not decide for ever.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_WEIGHT = 0.3  # of the newest measurement
_RECOVERY_SECONDS = 60.0  # in which a rate may double


@dataclass(slots=True)
class _Rate:
    """Units per second; never believed to be far above what was calibrated."""

    calibrated: float
    value: float
    at: float

    def current(self, now: float) -> float:
        return min(self.calibrated, self.value * math.exp2(min(64.0, (now - self.at) / _RECOVERY_SECONDS)))

    def observe(self, found: float, now: float) -> None:
        before = self.current(now)
        # Worse than expected counts whole: nobody should pay twice for learning it.
        self.value = found if found < before else before + _WEIGHT * (found - before)
        self.calibrated = max(self.calibrated, self.value)
        self.at = now


@dataclass(slots=True)
class Rates:
    """Thread-safe. tokens: per second of prefill.   bytes: per second of loading.   overhead: seconds of any load.
    may_give_up: whether `give_up` does so."""

    tokens: float
    bytes: float
    overhead: float = 0.002
    now: Callable[[], float] = time.monotonic
    may_give_up: bool = False
    has_given_up: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _compute: _Rate = field(init=False)
    _load: _Rate = field(init=False)

    def __post_init__(self) -> None:
        self._compute = _Rate(self.tokens, self.tokens, self.now())
        self._load = _Rate(self.bytes, self.bytes, self.now())

    def shown(self) -> tuple[float, float]:
        """Tokens and bytes per second, as believed now; no bytes once it is given up."""
        with self._lock:
            return self._compute.value, 0.0 if self.has_given_up else self._load.current(self.now())

    def give_up(self) -> bool:
        """Loading has not paid for so long that it is not tried any more, if that is allowed; whether it is."""
        with self._lock:
            self.has_given_up = self.has_given_up or self.may_give_up
            return self.has_given_up

    def follow(self, tokens: float, bytes: float) -> None:
        """Believe what another process, which does the work, has found."""
        with self._lock:
            self.has_given_up = self.has_given_up or bytes <= 0
            now = self.now()
            self._compute = _Rate(tokens, tokens, now)
            self._load = _Rate(bytes, bytes, now)

    def compute_seconds(self, num_tokens: int) -> float:
        """What reading so many tokens is expected to take."""
        with self._lock:
            return num_tokens / max(1e-9, self._compute.value)

    def load_seconds(self, num_bytes: int) -> float:
        """What loading so much is expected to take."""
        with self._lock:
            return self.overhead + num_bytes / max(1e-9, self._load.current(self.now()))

    def pays(self, num_tokens: int, num_bytes: int) -> bool:
        """Whether loading is expected to be quicker."""
        return not self.has_given_up and self.load_seconds(num_bytes) < self.compute_seconds(num_tokens)

    def computed(self, num_tokens: int, seconds: float) -> None:
        """Prefill took so long."""
        with self._lock:
            found = num_tokens / max(1e-9, seconds)
            self._compute.value += _WEIGHT * (found - self._compute.value)

    def loaded(self, num_bytes: int, seconds: float) -> None:
        """A load took so long; of one that was abandoned, what it had read by then."""
        with self._lock:
            self._load.observe(num_bytes / max(1e-9, seconds - self.overhead), self.now())
