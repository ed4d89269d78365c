"""`LightMemConnector`: KV caches of vLLM that live as long as the memory they were made of; and, where that is asked
for, how the model attends between the turns of the chats it reads.

vLLM makes two of these, one in its scheduler and one in its worker, which talk by way of the metadata of a step alone.
Loads are asynchronous, blocks whole. Without the owner of the memory everything is a miss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightmem_engine.errors import StoreError
from lightmem_engine.kv.keys import fingerprint
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.vllm_plugin.attention.link import AttentionWorker, attention_planner
from lightmem_engine.vllm_plugin.attention.plan import AttentionPlanner
from lightmem_engine.vllm_plugin.compat_kv import (
    KVConnectorBase_V1,
    KVConnectorRole,
    SupportsHMA,
    Unsuited,
    block_bytes,
    facts_of,
    weights_of,
)
from lightmem_engine.vllm_plugin.kept.blocks import BlockMover
from lightmem_engine.vllm_plugin.kept.held import HeldConversations, report_of
from lightmem_engine.vllm_plugin.kept.link import Follower, OwnerLink, complainer
from lightmem_engine.vllm_plugin.kept.messages import StepPlan, WorkerRates
from lightmem_engine.vllm_plugin.kept.options import ConnectorOptions
from lightmem_engine.vllm_plugin.kept.plan import Planner
from lightmem_engine.vllm_plugin.kept.step_times import StepTimes

logger = logging.getLogger(__name__)

_TOKENS_PER_SECOND = 2000.0  # until the first step has been measured
_BYTES_PER_SECOND = 1e9  # until the first load has been


class LightMemConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """One half of it, by `role`. off: why nothing is kept; a server without kept caches serves all the same."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        """Raises `ConfigError` for options that are none."""
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        options = ConnectorOptions.of(vllm_config.kv_transfer_config.kv_connector_extra_config)
        self._link = OwnerLink(Path(options.socket))
        self.off = ""
        self._store: KVStore | None = None
        self._follower: Follower | None = None
        self._planner: Planner | None = None
        self._mover: BlockMover | None = None
        self._held: HeldConversations | None = None
        self._attention: AttentionPlanner | None = None
        self._onlooker: AttentionWorker | None = None
        self._refused: tuple[set[str], set[int]] = set(), set()  # requests and blocks of loads that are not made
        self._times: StepTimes | None = None
        self._rates = Rates(_TOKENS_PER_SECOND, _BYTES_PER_SECOND, may_give_up=options.selective)
        try:
            self._open(options, vllm_config, role, kv_cache_config)
        except (Unsuited, StoreError) as error:
            self._turn_off(str(error))

    def _open(self, options: ConnectorOptions, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        """Raises `Unsuited` for a model or a set-up whose KV is not handled, `StoreError` for a useless directory."""
        self._fingerprint = fingerprint({"weights": weights_of(vllm_config), **facts_of(vllm_config)})
        if len(kv_cache_config.kv_cache_groups) != 1:
            raise Unsuited("the model has several kinds of attention")
        self._block_size = int(vllm_config.cache_config.block_size)
        store = self._store = options.open_store()
        if options.attention and role == KVConnectorRole.SCHEDULER:
            self._attention = attention_planner(vllm_config, self._block_size)
        elif options.attention:
            self._onlooker = AttentionWorker(vllm_config, options.layers, self._link)
        if role == KVConnectorRole.SCHEDULER:
            self._follower = Follower.of(store, self._link, report=lambda: report_of(store, self._held))
            planner = self._planner = Planner(
                store,
                self._fingerprint,
                self._block_size,
                self._rates,
                lambda: self._follower is not None and self._follower.is_valid,
                min_tokens=options.min_tokens,
                block_bytes=block_bytes(kv_cache_config) if options.selective else 0,
            )
            self._held = HeldConversations(self._block_size, lambda hashes, first: planner.stored(hashes, first)[0])

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache that is not kept is computed again: no request waits for it."""
        return False

    # In the scheduler.

    def on_new_request(self, request: Any) -> None:
        """Note what the request says of its cache. Hashes say too little of adapters, pictures and embeddings."""
        is_other = request.lora_request is not None or request.mm_features or request.prompt_token_ids is None
        if self._planner is None or is_other:
            return
        params = request.kv_transfer_params
        hashes = request.block_hashes
        self._planner.add(request.request_id, hashes, request.num_prompt_tokens, request.cache_salt, params)
        if self._attention is not None:
            self._attention.add(request.request_id, request.prompt_token_ids, params)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """What can be loaded beyond the computed tokens, always asynchronously; None: ask again."""
        if self._planner is None:
            return 0, False
        if self._attention is not None and self._attention.is_searching(request.request_id):
            return None, False
        count = self._planner.matched(request.request_id, request.num_tokens, num_computed_tokens)
        return count, count > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plan the load that was promised."""
        if num_external_tokens and self._planner is not None:
            self._planner.allocated(request.request_id, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepPlan:
        """What the worker is to do."""
        if self._planner is None:
            return StepPlan()
        tokens = scheduler_output.num_scheduled_tokens
        plan = StepPlan(self._planner.take_loads(), [], scheduler_output.total_num_scheduled_tokens)
        for new in scheduler_output.scheduled_new_reqs:
            count = tokens.get(new.req_id, 0)
            self._add(plan, new.req_id, new.block_ids[0], new.num_computed_tokens, count, anew=True)
        cached = scheduler_output.scheduled_cached_reqs
        for id, blocks, computed in zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True):
            anew = id in cached.resumed_req_ids
            self._add(plan, id, blocks[0] if blocks else (), computed, tokens.get(id, 0), anew=anew)
        return plan

    def update_connector_output(self, connector_output: Any) -> None:
        """Learn from the worker what pays."""
        found = connector_output.kv_connector_worker_meta
        if isinstance(found, WorkerRates):
            self._rates.follow(found.tokens, found.bytes)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Blocks may be freed at once: what is kept was copied."""
        if self._held is not None:
            self._held.ended(request.kv_transfer_params, request.block_hashes)
        if self._planner is not None:
            self._planner.remove(request.request_id)
        if self._attention is not None:
            self._attention.remove(request.request_id)
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """As `request_finished`."""
        return self.request_finished(request, [])

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """The device's blocks can be looked at."""
        if self._held is not None:
            self._held.look_by(lambda hash: gpu_block_pool.get_cached_block(hash, [0]) is not None)

    # In the worker.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """The device's caches are there."""
        store = self._store
        if store is None:
            return
        for name, cache in kv_caches.items():
            if cache.shape[0] != self._kv_cache_config.num_blocks:
                self._turn_off(f"the KV cache of {name} is not laid out by blocks: {tuple(cache.shape)}")
                return
        try:
            self._mover = BlockMover(store, self._link, self._fingerprint, self._rates, kv_caches, self._block_size)
        except torch.OutOfMemoryError as error:
            self._turn_off(f"the device has no memory left to copy blocks in: {error}")
            return
        self._times = StepTimes(self._rates, next(iter(kv_caches.values())).device)
        settled = self._mover.settle
        self._follower = Follower.of(store, self._link, settled=settled, report=lambda: report_of(store))

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        """A step begins."""
        super().bind_connector_metadata(connector_metadata)
        if self._times is not None:
            self._times.begin()
        if self._onlooker is not None:
            self._onlooker.begin(self._plan().looks)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Begin the loads of this step."""
        for load in self._plan().loads:
            if self._mover is not None:
                self._mover.load(load)
            else:  # planned before this half was turned off: computed
                self._refused[0].add(load.request)
                self._refused[1].update(load.blocks)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are asynchronous: a request whose blocks are not there yet is not in the step."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are kept whole, after the step."""

    def wait_for_save(self) -> None:
        """Copy the blocks to keep. The step's computation is over, or ahead of us on the device's stream."""
        plan = self._plan()
        if self._times is not None:
            self._times.end(plan.num_tokens)
        for save in plan.saves:
            if self._mover is not None:
                self._mover.save(save)
        if self._onlooker is not None:
            self._onlooker.end()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Requests whose loads have ended."""
        if self._onlooker is not None:
            self._onlooker.forget(finished_req_ids)
        return None, (_taken(self._refused[0]) if self._mover is None else self._mover.finished()) or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks to compute after all."""
        return _taken(self._refused[1]) if self._mover is None else self._mover.failed()

    def build_connector_worker_meta(self) -> WorkerRates:
        """What the scheduler's half decides by."""
        return WorkerRates(*self._rates.shown())

    def shutdown(self) -> None:
        """Write what was copied, let go of everything."""
        if self._follower is not None:
            self._follower.close()
        if self._mover is not None:
            self._mover.close()
        self._close_attention()
        if self._store is not None:
            self._store.close()

    def _close_attention(self) -> None:
        if self._attention is not None:
            self._attention.close()
        if self._onlooker is not None:
            self._onlooker.close()
        self._attention = self._onlooker = None

    def _turn_off(self, reason: str) -> None:
        """Nothing is kept, and no attention is read."""
        self.off = reason
        logger.warning("no KV caches are kept: %s", reason)
        self._close_attention()
        if self._store is not None:
            self._store.close()
        self._store = self._planner = self._held = None
        self._follower = complainer(self._link, reason)

    def _plan(self) -> StepPlan:
        plan = self._get_connector_metadata()
        assert isinstance(plan, StepPlan)
        return plan

    def _add(self, plan: StepPlan, id: str, blocks: Sequence[int], computed: int, count: int, *, anew: bool) -> None:
        """A step computes `count` tokens of a request behind `computed` ones."""
        assert self._planner is not None
        save = self._planner.scheduled(id, blocks, computed + count, anew=anew)
        if save is not None:
            plan.saves.append(save)
        if self._attention is not None:
            look = self._attention.scheduled(id, blocks, computed, count, anew=anew)
            if look is not None:
                plan.looks.append(look)


def _taken(found: set[Any]) -> set[Any]:
    taken = set(found)
    found.clear()
    return taken
