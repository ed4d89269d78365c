"""What the KV store counts, for Prometheus. No label names a user, a tenant or a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lightmem_engine.kv.counters import BUCKETS

_TOTALS = {
    "lookups": "Prompts looked up in the kept caches",
    "hits": "Prompts whose beginning was loaded",
    "hit_tokens": "Prompt tokens loaded instead of computed",
    "tokens_recomputed": "Prompt tokens of looked-up prompts that were computed",
    "approximate_tokens": "Prompt tokens turned from another place (kv.reuse = approximate)",
    "loads_skipped": "Loads not tried because computing is quicker",
    "deadline_misses": "Loads abandoned because computing had become quicker",
    "stores": "Caches kept",
    "stores_skipped": "Caches not kept, by reason",
    "bytes_written": "Bytes written",
    "bytes_read": "Bytes read and found right",
    "fingerprint_mismatches": "Chunks of other models, or of another way of keeping them, found at the start",
    "verification_failures": "Chunks that were not what they should be, by what gave them away",
    "evictions": "Chunks evicted, by reason",
    "orphans": "Remains of earlier processes removed at a start, by kind",
    "errors": "Trouble that made a miss, by kind",
    "saved_seconds": "Estimated seconds of computing saved",
    "waited_seconds": "Seconds waited for loads, whatever came of them",
}
_SIZES = {
    "bytes_used": "Bytes on disk, charged ones included",
    "bytes_cap": "Bytes allowed",
    "bytes_free": "Bytes free on the volume",
    "tokens": "Tokens kept",
    "chunks": "Chunks kept",
    "manifests": "Caches that stand",
    "pinned": "Chunks that are being read or were just written, and are not evicted",
    "queued": "Caches that wait to be written",
    "held_tokens": "Tokens of ended conversations that the model server need not compute again",
    "tokens_per_second": "Speed of computing that loads are weighed by",
    "bytes_per_second": "Speed of loading that they are weighed by",
    "costs_more_than_it_saves": "1 once loads have cost more than they saved for ten minutes",
}
_MODES = ("off", "warm", "persist")


class KvCollector(Collector):
    """Shows the figures of the last `update`."""

    def __init__(self) -> None:
        self._stats: Mapping[str, Any] = {}

    def update(self, stats: Mapping[str, Any]) -> None:
        """stats: as of `Engine.kv_stats`."""
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """All families."""
        totals = self._stats.get("totals", {})
        for name, help in _TOTALS.items():
            counter = CounterMetricFamily(f"lightmem:kv_{name}", help, labels=["reason"])
            for reason, amount in totals.get(name, {"": 0}).items():
                counter.add_metric([reason], amount)
            yield counter
        for name, help in _SIZES.items():
            yield GaugeMetricFamily(f"lightmem:kv_{name}", help, value=float(self._stats.get(name, 0)))
        modes = GaugeMetricFamily("lightmem:kv_mode", "1 for what is kept across restarts", labels=["mode"])
        for mode in _MODES:
            modes.add_metric([mode], float(self._stats.get("mode") == mode))
        yield modes
        for name, found in sorted(self._stats.get("seconds", {}).items()):
            yield _histogram(f"lightmem:kv_{name}_seconds", found)
        net = _sum(totals, "saved_seconds") - _sum(totals, "waited_seconds")
        yield GaugeMetricFamily("lightmem:kv_net_benefit_seconds", "Seconds saved less seconds waited", value=net)


def _histogram(name: str, found: Mapping[str, Any]) -> Metric:
    cumulative, total = [], 0
    for edge, count in zip([*map(str, BUCKETS), "+Inf"], found["buckets"], strict=True):
        total += count
        cumulative.append((edge, float(total)))
    return HistogramMetricFamily(name, "How long it took", buckets=cumulative, sum_value=found["sum"])


def _sum(totals: Mapping[str, Mapping[str, float]], name: str) -> float:
    return sum(totals.get(name, {}).values())
