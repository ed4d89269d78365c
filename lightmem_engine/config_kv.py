"""Options of KV caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightmem_engine.config_fields import check, option


@dataclass(frozen=True, slots=True)
class KvConfig:
    mode: Literal["off", "warm", "persist"] = option(
        "persist",
        "KV caches across restarts: none; token ids alone, read again after a start (model in process); or the caches "
        "themselves (also inside vLLM)",
    )
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
    segments: bool = option(True, "read the extraction prompt of closed segments in advance (extract.mode = llm)")

    def __post_init__(self) -> None:
        check(self.max_bytes >= 1024**2, "kv.max_bytes must be at least 1 MiB")
        check(0 < self.tenant_share <= 1, "kv.tenant_share must be above 0 and at most 1")
        check(self.min_free_bytes >= 0, "kv.min_free_bytes must be 0 or more")
        check(self.ttl_seconds > 0, "kv.ttl_seconds must be above 0")
        check(self.min_tokens >= 1, "kv.min_tokens must be at least 1")
        check(16 <= self.chunk_tokens <= 4096, "kv.chunk_tokens must be between 16 and 4096")
