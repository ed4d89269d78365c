"""Options of KV caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightmem_engine.config_fields import check, option


@dataclass(frozen=True, slots=True)
class KvConfig:
    mode: Literal["auto", "off", "warm", "persist"] = option(
        "auto",
        "KV caches across restarts: none (off); token ids alone, read again after a start (warm, model in process); "
        "the caches themselves (persist, also inside vLLM); auto: what is measured to pay, at the start and later",
    )
    tier: Literal["connector", "offload"] = option(
        "connector",
        "inside vLLM: our own connector between device and disk; or vLLM's offloading, with host memory between them "
        "(CUDA alone; experimental until it has been measured on a GPU)",
    )
    host_bytes: int = option(4 * 1024**3, "pinned host memory for kv.tier = offload, in /dev/shm")
    directory: str = option(
        "", "where their folder, kv, lies; empty: data_dir. Two data directories must not share one"
    )
    salt: Literal["user", "tenant"] = option(
        "user", "who shares caches of equal prompts: nobody, or the users of a tenant, who can then time each other"
    )
    max_bytes: int = option(8 * 1024**3, "disk for KV caches")
    tenant_share: float = option(0.5, "share of max_bytes for one tenant")
    min_free_bytes: int = option(2 * 1024**3, "room that stays free on the volume")
    ttl_seconds: float = option(86400.0, "a cache that nobody has used for so long goes")
    min_tokens: int = option(64, "shorter prompts are not kept")
    chunk_tokens: int = option(256, "tokens of one file")
    durability: Literal["none", "fsync"] = option(
        "none", "fsync: a cache survives a power cut; without it, what a power cut damages is found and not used"
    )
    storage: Literal["exact", "int8", "fp8"] = option(
        "exact",
        "of the model in process: caches as they are, or a byte for each number, which is not exact (bench/LOG.md says "
        "how far off)",
    )
    reuse: Literal["exact", "approximate"] = option(
        "exact",
        "of the model in process; approximate, an experiment: what stood elsewhere in an earlier prompt of the user is "
        "turned to its place now instead of computed, and answers are others",
    )
    server_off: str = option("", "why the model server keeps no caches, for kv stats (set by serve inside vLLM)")
    segments: bool = option(True, "read the extraction prompt of closed segments in advance (extract.mode = llm)")

    @property
    def may_persist(self) -> bool:
        """Whether caches themselves may be kept."""
        return self.mode in ("auto", "persist")

    def __post_init__(self) -> None:
        check(self.max_bytes >= 1024**2, "kv.max_bytes must be at least 1 MiB")
        check(self.host_bytes >= 1024**2, "kv.host_bytes must be at least 1 MiB")
        check(0 < self.tenant_share <= 1, "kv.tenant_share must be above 0 and at most 1")
        check(self.min_free_bytes >= 0, "kv.min_free_bytes must be 0 or more")
        check(self.ttl_seconds > 0, "kv.ttl_seconds must be above 0")
        check(self.min_tokens >= 1, "kv.min_tokens must be at least 1")
        check(16 <= self.chunk_tokens <= 4096, "kv.chunk_tokens must be between 16 and 4096")
