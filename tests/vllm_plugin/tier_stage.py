"""The tier under vLLM's own manager of tiers, over host memory in place of a GPU's neighbour: what the scheduler calls,
in the order in which it calls it."""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager, TieringOffloadingManager

from lightmem_engine.kv.files import Bytes
from lightmem_engine.vllm_plugin import compat_tier
from lightmem_engine.vllm_plugin.kept.options import ConnectorOptions
from lightmem_engine.vllm_plugin.kept.plan import block_key
from lightmem_engine.vllm_plugin.tier.manager import KIND
from lightmem_engine.vllm_plugin.tier.options import MODULE
from tests.support.waiting import PATIENCE_SECONDS, wait_until

CHUNK = 16  # tokens
ROW = 8192  # bytes
MODEL = b"m" * 32


def content_of(hash: bytes) -> Bytes:
    """What the model would compute for a block."""
    seed = int.from_bytes(hash[:8], "little") ^ int.from_bytes(hash[8:16], "little")
    return np.random.default_rng(seed).integers(0, 256, ROW, np.uint8)


class Stage:
    """A scheduler's offloading, from its start to its end."""

    def __init__(
        self, data_dir: Path, rows: int = 64, model: bytes | None = MODEL, speed: float = 1.0, **options: Any
    ) -> None:
        """model: its fingerprint; without one the tier does not begin.   speed: of the model, in tokens a second; the
        slower, the more a load may take."""
        region = SharedOffloadRegion(uuid.uuid4().hex, rows, None, ROW, ROW)
        Path(region.mmap_path).unlink()  # nothing is left of it, however the test ends
        region._creator = False
        self._primary = CPUPrimaryTierOffloadingManager(num_chunks=rows, mmap_region=region)
        chosen = ConnectorOptions(str(data_dir / "kv"), str(data_dir / "engine.sock"), 1 << 24)
        spec = SimpleNamespace(tokens_per_block=(CHUNK,), blocks_per_chunk=1, tokens_per_hash=CHUNK)
        importlib.import_module(MODULE)  # makes the tier known to vLLM
        kind = {"type": KIND, **asdict(chosen), **options}
        self.tier: Any = SecondaryTierFactory.create_secondary_tier(kind, self._primary.get_kv_memoryview(), spec)
        if model is not None:
            self.tier.begin(model, speed)
        self.manager = TieringOffloadingManager(self._primary, [self.tier])
        self.rows: Bytes = np.asarray(self._primary.get_kv_memoryview()).view(np.uint8)
        self._model = model or b""

    def arrive(self, hashes: Sequence[bytes], salt: str | None, params: Mapping[str, Any] | None, **more: Any) -> Visit:
        """A request is added to the scheduler."""
        request = SimpleNamespace(
            request_id=uuid.uuid4().hex,
            lora_request=None,
            mm_features=[],
            prompt_token_ids=[1],
            cache_salt=salt,
            block_hashes=list(hashes),
            num_prompt_tokens=len(hashes) * CHUNK + 3,
            kv_transfer_params=params,
        )
        vars(request).update(more)
        self.tier.watch(request)
        context = ReqContext(req_id=request.request_id, kv_transfer_params=request.kv_transfer_params)
        self.manager.on_new_request(context)
        return Visit(self, context, list(hashes))

    def step(self) -> None:
        """The scheduler ends a step."""
        self.manager.on_schedule_end(ScheduleEndContext(new_req_ids=[], preempted_req_ids=()))
        time.sleep(0.002)

    def until_idle(self) -> None:
        """Step until no job is under way."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.manager.has_pending_work():
            assert time.monotonic() < deadline
            self.step()

    def heard(self, count: int = 1) -> None:
        """Wait until the tier knows of so many manifests that stand."""
        wait_until(lambda: self.tier._follower.is_valid and len(self.tier._store.allowed()) >= count, pause=0.005)

    def keep(self, hashes: Sequence[bytes], salt: str, params: Any) -> None:
        """A request finds nothing, computes its whole prompt, and is answered."""
        visit = self.arrive(hashes, salt, params)
        assert visit.found() == 0
        visit.compute()
        visit.finish()
        self.until_idle()

    def forget_host(self) -> None:
        """vLLM's host cache is emptied, as when other requests have taken its rows."""
        self.until_idle()
        self.manager.reset_cache()

    def keys_of(self, hashes: Sequence[bytes]) -> list[bytes]:
        """What the store calls these blocks."""
        return [block_key(self._model, one) for one in hashes]

    def in_host(self, hashes: Sequence[bytes]) -> list[int]:
        """Which of these blocks vLLM has in host memory."""
        keys = [compat_tier.make_offload_key(one, 0) for one in hashes]
        context = ReqContext(req_id="a look")
        return [n for n, key in enumerate(keys) if self._primary.lookup(key, context) is LookupResult.HIT]

    def counted(self, name: str, reason: str | None = None) -> float:
        """One of the store's counters."""
        return float(self.tier._store.counters.get(name, reason))

    def close(self) -> None:
        """The server ends in good order."""
        self.until_idle()
        del self.rows
        self.manager.shutdown()


class Visit:
    """One request's way through the scheduler."""

    def __init__(self, stage: Stage, context: Any, hashes: list[bytes]) -> None:
        self._stage = stage
        self.context = context
        self._hashes = hashes
        self._keys = [compat_tier.make_offload_key(one, 0) for one in hashes]

    def found(self) -> int:
        """Chunks from the front that can be loaded to the device, once vLLM knows; their bytes are checked."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (count := self.look()) is None:
            assert time.monotonic() < deadline
            self._stage.step()
        spec = self._stage.manager.prepare_load(self._keys[:count], self.context)
        for hash, row in zip(self._hashes, spec.block_ids.tolist(), strict=False):
            assert (self._stage.rows[row] == content_of(hash)).all()
        self._stage.manager.complete_load(self._keys[:count], self.context)
        return count

    def compute(self, first: int = 0, last: int | None = None) -> int:
        """The device computes chunks, and vLLM keeps them in host memory; how many it did not have."""
        keys = self._keys[first:last]
        hashes = dict(zip(keys, self._hashes[first:last], strict=True))
        stored = self._stage.manager.prepare_store(keys, self.context)
        assert stored is not None
        for key, row in zip(stored.keys_to_store, stored.store_spec.block_ids.tolist(), strict=True):
            self._stage.rows[row] = content_of(hashes[key])
        if stored.keys_to_store:
            self._stage.step()
            self._stage.manager.complete_store(set(stored.keys_to_store), self.context)
        self._stage.step()
        return len(stored.keys_to_store)

    def finish(self) -> None:
        """The request has its answer."""
        self._stage.manager.on_request_finished(self.context)
        self._stage.step()

    def look(self, last: int | None = None) -> int | None:
        """As vLLM's connector looks: from the front to the first miss; None if it is to look again in the next step."""
        count, is_deferred = 0, False
        for key in self._keys[:last]:
            result = self._stage.manager.lookup(key, self.context)
            if result is LookupResult.MISS:
                break
            is_deferred |= result is not LookupResult.HIT
            count += 1
        return None if is_deferred else count
