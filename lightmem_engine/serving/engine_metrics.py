"""What an engine counts, for Prometheus: read at a scrape, shown by whichever process is asked.

A collector of its own, not gauges: where several processes share their metrics through files (`multiprocess` of the
client library), gauges of each would be shown, and these numbers are one engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lightmem_engine.serving.kv_metrics import KvCollector

_SIZES = {
    "users": "Users with memory",
    "messages": "Messages in the log",
    "entries": "Entries of long-term memory",
}
_TOTALS = (
    ("device", "device", "Work of a device lane", "lane", ("batches", "items", "tokens", "seconds")),
    (
        "usage",
        "lm",
        "Background use of the language model",
        "stage",
        ("calls", "prompt_tokens", "completion_tokens", "seconds"),
    ),
)


class EngineMetrics(Collector):
    """Shows the figures of the last `update`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """registry: where they are listed."""
        self._stats: Mapping[str, Any] | None = None
        self._queued_tokens = 0
        self._kv = KvCollector()
        registry.register(self)
        registry.register(self._kv)

    def update(self, stats: Mapping[str, Any] | None, queued_tokens: int) -> None:
        """stats: the engine's, or None if it gave none; the sizes are then left out, for nobody knows them.
        queued_tokens: that wait for its device."""
        self._stats = stats
        self._queued_tokens = queued_tokens
        if stats is not None:
            self._kv.update(stats.get("kv", {}))

    def collect(self) -> Iterable[Metric]:
        """All families."""
        stats = self._stats
        yield _gauge("engine_up", "1 if the engine answered this scrape", stats is not None)
        yield _gauge("device_queued_tokens", "Tokens that wait for the device", self._queued_tokens)
        if stats is None:
            return
        for name, help in _SIZES.items():
            yield _gauge(name, help, stats[name])
        yield _gauge("messages_pending", "Messages that are not long-term memory yet", stats["pending"])
        yield _gauge("parked", "Items that failed for good and wait for a person", len(stats["parked"]))
        for part, prefix, help, label, names in _TOTALS:
            for name in names:
                family = CounterMetricFamily(f"lightmem:{prefix}_{name}", f"{help}: {name}", labels=[label])
                for row, found in stats.get(part, {}).items():
                    family.add_metric([row], found[name])
                yield family


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"lightmem:{name}", help, value=float(value))
