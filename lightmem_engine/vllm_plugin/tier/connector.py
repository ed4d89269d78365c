"""`LightMemOffloadingConnector`: vLLM's offloading connector, with what our tier has to know of a request.

The tier's own interface shows a request's parameters, but neither its salt, nor whether hashes cover all that its KV
depends on, nor the order of its chunks; and it says nothing of how fast the model computes, by which loads are decided.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from lightmem_engine.errors import StoreError
from lightmem_engine.kv.keys import fingerprint
from lightmem_engine.kv.rates import Rates
from lightmem_engine.vllm_plugin import compat_tier
from lightmem_engine.vllm_plugin.compat_kv import KVConnectorRole, Unsuited, weights_of
from lightmem_engine.vllm_plugin.tier.manager import KIND, LightMemTier

logger = logging.getLogger(__name__)

_MEASURED_TOKENS = 64  # of a step; shorter ones say little about the speed of reading
_TOKENS_PER_SECOND = 2000.0  # until steps have been measured; few, so that the first request that returns is loaded
_STEPS_AHEAD = 4  # that a scheduler may be ahead of the model

compat_tier.register_tier(KIND, "lightmem_engine.vllm_plugin.tier.manager", "LightMemTier")


class LightMemOffloadingConnector(compat_tier.OffloadingConnector):  # type: ignore[misc]
    """One half of it, by `role`; the worker's is vLLM's own."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        """Raises `ConfigError` for options that are none."""
        super().__init__(vllm_config, role, kv_cache_config)
        self.tier: LightMemTier | None = None
        self._rates: Rates | None = None
        self._steps: deque[tuple[int, float]] = deque(maxlen=_STEPS_AHEAD)
        self._ended = 0.0
        if role == KVConnectorRole.SCHEDULER:
            (self.tier,) = (one for one in compat_tier.tiers_of(self) if isinstance(one, LightMemTier))
            self._rates = begin(self.tier, vllm_config, kv_cache_config)

    def on_new_request(self, request: Any) -> None:
        """Tell the tier first: vLLM asks it at once how the request is to be kept."""
        if self.tier is not None:
            self.tier.watch(request)
        super().on_new_request(request)

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """The device's blocks can be looked at."""
        super().bind_gpu_block_pool(gpu_block_pool)
        if self.tier is not None and self.tier.held is not None:
            self.tier.held.look_by(lambda hash: gpu_block_pool.get_cached_block(hash, [0]) is not None)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request is over; its blocks stay until somebody needs the room."""
        if self.tier is not None and self.tier.held is not None:
            self.tier.held.ended(request.kv_transfer_params, request.block_hashes)
        found: tuple[bool, dict[str, Any] | None] = super().request_finished_all_groups(request, block_ids)
        return found

    def build_connector_meta(self, scheduler_output: Any) -> Any:
        """A step begins."""
        if scheduler_output.total_num_scheduled_tokens:
            self._steps.append((scheduler_output.total_num_scheduled_tokens, time.monotonic()))
        return super().build_connector_meta(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        """A step has ended: so fast is the model, with whatever it was waiting for."""
        now = time.monotonic()
        if self._steps:
            num_tokens, began = self._steps.popleft()
            if num_tokens >= _MEASURED_TOKENS and self._rates is not None:
                self._rates.computed(num_tokens, now - max(began, self._ended))
        self._ended = now
        super().update_connector_output(connector_output)


def begin(tier: LightMemTier, vllm_config: Any, kv_cache_config: Any) -> Rates | None:
    """Have a tier keep caches of this vLLM; None, and the reason in `tier.off`, where that cannot be."""
    try:
        if len(kv_cache_config.kv_cache_groups) != 1:
            raise Unsuited("the model has several kinds of attention")
        facts = {
            "weights": weights_of(vllm_config),
            **compat_tier.tier_facts(vllm_config),
            "chunk_tokens": tier.chunk_tokens,
            "row_bytes": tier.row_bytes,
        }
        return tier.begin(fingerprint(facts), _TOKENS_PER_SECOND)
    except (Unsuited, StoreError) as error:
        tier.turn_off(str(error))
        return None
