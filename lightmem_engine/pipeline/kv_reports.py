"""What connectors in other processes say of themselves: why they keep nothing, what they have counted, and of which
conversations their model server has something left."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.wire_kv import LEASE_SECONDS

MAX_REPORTS = 64  # of connectors, those of earlier processes among them; beyond it the oldest are added up
LOSES = "costs_more_than_it_saves"


@dataclass(frozen=True, slots=True)
class Report:
    """off: why it keeps nothing, empty if it does.   totals, seconds: as `kv.counters` has them.   held: by thread of
    conversation, the tokens from the front that need not be computed, and those behind them."""

    off: str = ""
    totals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held: Mapping[int, tuple[int, int]] = field(default_factory=dict)


class Reports:
    """The last one of each connector. Belongs to one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._known: OrderedDict[str, tuple[float, Report]] = OrderedDict()
        self._past = Report()

    def take(self, follower: str, report: Report) -> None:
        """One has spoken."""
        self._known[follower] = self._now(), report
        self._known.move_to_end(follower)
        if len(self._known) > MAX_REPORTS:
            _, (_, oldest) = self._known.popitem(last=False)
            counted = added([self._past, oldest])
            self._past = Report("", counted["totals"], counted["seconds"])

    def gone(self, thread: int) -> int:
        """Of a conversation that was read, how many tokens would have to be computed again, as of some seconds ago;
        0 if nobody knows."""
        return min((report.held[thread][1] for report in self._living() if thread in report.held), default=0)

    def describe(self, refused: str) -> dict[str, Any]:
        """`mode` and `reason` of a model server with connectors, and how many tokens it still has of conversations that
        have ended (`held_tokens`). refused: why its launcher has put none there."""
        living = self._living()
        if refused:
            return {"mode": "off", "reason": refused}
        if not living:
            return {"mode": "off", "reason": "no model in this process keeps caches, and no model server asks for any"}
        for report in living:
            if report.off:
                return {"mode": "off", "reason": report.off}
        losses = {reason for report in living for reason in report.totals.get("losses", ())}
        if "off" in losses:
            return {"mode": "off", "reason": "for ten minutes loads have cost more than they saved", LOSES: True}
        held = sum(held for report in living for held, _ in report.held.values())
        return {
            "mode": "persist",
            "reason": "the model server has a connector",
            "held_tokens": held,
            LOSES: bool(losses),
        }

    def with_own(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """`totals` and `seconds` of the owner's store and of all connectors."""
        mine = Report("", own.get("totals", {}), own.get("seconds", {}))
        return added([mine, self._past, *(report for _, report in self._known.values())])

    def _living(self) -> list[Report]:
        since = self._now() - LEASE_SECONDS
        return [report for at, report in self._known.values() if at >= since]


def added(reports: Sequence[Report]) -> dict[str, Any]:
    """The sums of what several have counted."""
    totals: dict[str, Counter[str]] = {}
    seconds: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, reasons in report.totals.items():
            totals.setdefault(name, Counter()).update(reasons)
        for name, found in report.seconds.items():
            sums = seconds.setdefault(name, {"buckets": [0] * len(found["buckets"]), "sum": 0.0})
            sums["buckets"] = [a + b for a, b in zip(sums["buckets"], found["buckets"], strict=True)]
            sums["sum"] += found["sum"]
    return {"totals": {name: dict(reasons) for name, reasons in sorted(totals.items())}, "seconds": seconds}
