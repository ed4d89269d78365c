"""Prometheus metrics, named as vLLM names its own, under `lightmem:`. No label ever names a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightmem_engine.serving.kv_metrics import KvCollector

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_READ = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Everything one server counts. Belongs to one event loop."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """registry: where to list what this process counts, if the engine is another's; the engine's own numbers are
        then not listed."""
        self._registry = own = CollectorRegistry()
        registry = registry or own

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"lightmem:{name}", help, labels, registry=registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"lightmem:{name}", help, labels, registry=own)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"lightmem:{name}", help, buckets=buckets, registry=registry)

        self._requests = counter("http_requests", "Requests answered", "method", "route", "status")
        self._running = gauge("num_requests_running", "Requests under way", "kind")
        self.time_to_first_token = histogram("time_to_first_token_seconds", "Chat: arrival to first piece", _SECONDS)
        self.e2e_latency = histogram("e2e_request_latency_seconds", "Chat: arrival to last piece", _SECONDS)
        self.recall_latency = histogram("recall_latency_seconds", "Reading memory for a chat turn", _READ)
        self.degraded = counter("degraded_turns", "Chat turns with less memory than they could have", "reason")
        self.turns = counter("turns", "Chat turns with memory, by whether they are on disk", "stored")
        self.upstream_errors = counter("upstream_errors", "Failures of the model server behind us", "kind")
        self._engine_up = gauge("engine_up", "1 if the engine answered this scrape")
        self._gauges = {
            name: gauge(name, help)
            for name, help in (
                ("users", "Users with memory"),
                ("messages", "Messages in the log"),
                ("entries", "Entries of long-term memory"),
                ("messages_pending", "Messages that are not long-term memory yet"),
                ("parked", "Items that failed for good and wait for a person"),
                ("device_queued_tokens", "Tokens that wait for the device"),
            )
        }
        self._kv = KvCollector()
        registry.register(self._kv)
        # Totals that the engine counts; they only grow, and are set at a scrape.
        self._lanes = {
            name: gauge(f"device_{name}_total", f"Work of a device lane: {name}", "lane")
            for name in ("batches", "items", "tokens", "seconds")
        }
        self._model = {
            name: gauge(f"lm_{name}_total", f"Background use of the language model: {name}", "stage")
            for name in ("calls", "prompt_tokens", "completion_tokens", "seconds")
        }

    def request(self, method: str, route: str, status: int) -> None:
        """Count an answer; `route` is a pattern, never a path with names in it."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()

    def running(self, kind: str, change: int) -> None:
        """Note that a request began (1) or ended (-1)."""
        self._running.labels(kind).inc(change)

    def render(self, stats: Mapping[str, Any] | None, queued_tokens: int) -> bytes:
        """The exposition text. stats: the engine's, or None if it gave none."""
        self._engine_up.set(stats is not None)
        self._gauges["device_queued_tokens"].set(queued_tokens)
        if stats is not None:
            for name in ("users", "messages", "entries"):
                self._gauges[name].set(stats[name])
            self._kv.update(stats.get("kv", {}))
            self._gauges["messages_pending"].set(stats["pending"])
            self._gauges["parked"].set(len(stats["parked"]))
            for gauges, rows in ((self._lanes, stats.get("device", {})), (self._model, stats["usage"])):
                for label, row in rows.items():
                    for name, gauge in gauges.items():
                        gauge.labels(label).set(row[name])
        return generate_latest(self._registry)
