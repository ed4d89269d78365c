"""What the KV store counts. Names and reasons only: no tenant, no user, no key."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Any

BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Counters:
    """Totals since the start, by (name, reason), and how long loads and stores took. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, tuple[list[int], float]] = {}

    def count(self, name: str, amount: float = 1, reason: str = "") -> None:
        """Add to a total."""
        with self._lock:
            self._totals[name, reason] += amount  # type: ignore[assignment]

    def took(self, name: str, seconds: float) -> None:
        """Note how long a load or a store took."""
        with self._lock:
            counts, total = self._seconds.setdefault(name, ([0] * (len(BUCKETS) + 1), 0.0))
            counts[bisect_left(BUCKETS, seconds)] += 1
            self._seconds[name] = (counts, total + seconds)

    def get(self, name: str, reason: str | None = None) -> float:
        """A total; of all reasons if none is named."""
        with self._lock:
            return sum(n for (found, why), n in self._totals.items() if found == name and reason in (None, why))

    def snapshot(self) -> dict[str, Any]:
        """`{"totals": {name: {reason: n}}, "seconds": {name: {"buckets": [...], "sum": s}}}`; the last bucket is for
        whatever is longer."""
        with self._lock:
            totals: dict[str, dict[str, float]] = {}
            for (name, reason), amount in sorted(self._totals.items()):
                totals.setdefault(name, {})[reason] = amount
            seconds = {name: {"buckets": list(counts), "sum": s} for name, (counts, s) in self._seconds.items()}
            return {"totals": totals, "seconds": seconds}
