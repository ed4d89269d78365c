"""What the halves of the connector tell each other, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightmem_engine.vllm_plugin.attention.plan import Look
from lightmem_engine.vllm_plugin.compat_kv import KVConnectorMetadata, KVConnectorWorkerMetadata
from lightmem_engine.vllm_plugin.kept.plan import Load, Save


@dataclass
class StepPlan(KVConnectorMetadata):  # type: ignore[misc]
    """What the worker is to do in one step. num_tokens: that it computes.   looks: at prompts."""

    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
    num_tokens: int = 0
    looks: list[Look] = field(default_factory=list)


@dataclass
class WorkerRates(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """How fast the worker computes and loads, in tokens and bytes a second."""

    tokens: float
    bytes: float

    def aggregate(self, other: WorkerRates) -> WorkerRates:
        """Of several workers the slowest decides."""
        return WorkerRates(min(self.tokens, other.tokens), min(self.bytes, other.bytes))
