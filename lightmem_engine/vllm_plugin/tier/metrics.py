"""What vLLM's `/metrics` shows of the tier: the store's own counters, as they grow. No tenant, no user, no key."""

from __future__ import annotations

from typing import Any

from lightmem_engine.kv.counters import Counters
from lightmem_engine.vllm_plugin import compat_tier

PREFIX = "lightmem_kv_tier_"
COUNTED = {
    "lookups": "Requests whose chunks were looked up on disk.",
    "loads_skipped": "Loads that were not made: computing is quicker.",
    "hits": "Requests of which something was loaded from disk.",
    "hit_tokens": "Tokens that were loaded from disk.",
    "bytes_read": "Bytes read from disk.",
    "verification_failures": "Chunks that were not what they should be.",
    "deadline_misses": "Loads that took too long.",
    "stores": "Pieces of prompts that were kept.",
    "stores_skipped": "Pieces that were not kept.",
    "bytes_written": "Bytes written to disk.",
    "evictions": "Chunks that went to make room.",
    "errors": "Errors of the disk, the index or the owner's line; each is a miss.",
}


def definitions() -> dict[str, Any]:
    """As vLLM's offloading wants them."""
    return {
        PREFIX + name: compat_tier.OffloadingCounterMetadata(documentation=text, labelnames=("reason",))
        for name, text in COUNTED.items()
    }


class TierMetrics:
    """Over one store's counters."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._shown: dict[tuple[str, str], float] = {}

    def taken(self) -> Any:
        """By how much they have grown since the last call; None if they have not."""
        found = compat_tier.OffloadingConnectorStats()
        for name, reasons in self._counters.snapshot()["totals"].items():
            for reason, total in reasons.items():
                grown = total - self._shown.get((name, reason), 0)
                if name in COUNTED and grown > 0:
                    self._shown[name, reason] = total
                    found.increase_counter(PREFIX + name, grown, (reason,))
        return None if found.is_empty() else found
