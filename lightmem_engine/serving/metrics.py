"""Prometheus metrics, named as vLLM names its own, under `lightmem:`. No label ever names a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightmem_engine.serving.engine_metrics import EngineMetrics

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_READ = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Everything one server process counts. Belongs to one event loop."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """registry: where to list what this process counts, if the engine is another's; the engine's own numbers are
        then not listed."""
        self._registry = registry or CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"lightmem:{name}", help, labels, registry=self._registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"lightmem:{name}", help, buckets=buckets, registry=self._registry)

        self._requests = counter("http_requests", "Requests answered", "method", "route", "status")
        self._running = Gauge(
            "lightmem:num_requests_running",
            "Requests under way",
            ["kind"],
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.time_to_first_token = histogram("time_to_first_token_seconds", "Chat: arrival to first piece", _SECONDS)
        self.e2e_latency = histogram("e2e_request_latency_seconds", "Chat: arrival to last piece", _SECONDS)
        self.recall_latency = histogram("recall_latency_seconds", "Reading memory for a chat turn", _READ)
        self.degraded = counter("degraded_turns", "Chat turns with less memory than they could have", "reason")
        self.turns = counter("turns", "Chat turns with memory, by whether they are on disk", "stored")
        self.upstream_errors = counter("upstream_errors", "Failures of the model server behind us", "kind")
        self._engine = EngineMetrics(self._registry) if registry is None else None

    def request(self, method: str, route: str, status: int) -> None:
        """Count an answer; `route` is a pattern, never a path with names in it."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()

    def running(self, kind: str, change: int) -> None:
        """Note that a request began (1) or ended (-1)."""
        self._running.labels(kind).inc(change)

    def render(self, stats: Mapping[str, Any] | None, queued_tokens: int) -> bytes:
        """The exposition text. stats: the engine's, or None if it gave none."""
        if self._engine is not None:
            self._engine.update(stats, queued_tokens)
        return generate_latest(self._registry)
