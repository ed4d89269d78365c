"""vLLM's tiered offloading with a worker that copies within the CPU's memory, where vLLM itself has one for CUDA alone.

All else is vLLM's own: the connector, the scheduler's half, the host cache and the manager of its tiers.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

MODULE = "tests.support.cpu_offload"


class CpuWorker(OffloadingWorker):  # type: ignore[misc]
    """Copies at once, and says so when it is asked next."""

    def __init__(self, caches: Any, region: Any) -> None:
        self._region = region
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for one in caches.tensors:
            device = one.tensor.view(torch.int8).view((-1, one.page_size_bytes))
            self._pairs.append((device, region.create_next_worker_view(one.page_size_bytes)))
        self._ended: list[Any] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copied(job_id, src_spec, dst_spec, is_store=True)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copied(job_id, dst_spec, src_spec, is_store=False)

    def get_finished(self) -> list[Any]:
        ended, self._ended = self._ended, []
        return ended

    def wait(self, job_ids: set[int]) -> None:
        pass

    def shutdown(self) -> None:
        self._pairs.clear()
        self._region.cleanup()

    def _copied(self, job: int, device: Any, host: Any, *, is_store: bool) -> bool:
        for device_rows, host_rows in self._pairs:
            for block, row in zip(device.block_ids.tolist(), host.block_ids.tolist(), strict=True):
                if is_store:
                    host_rows[row] = device_rows[block]
                else:
                    device_rows[block] = host_rows[row]
        self._ended.append(TransferResult(job_id=job, success=True, transfer_size=1, transfer_time=1e-3))
        return True


class CpuTieringSpec(TieringOffloadingSpec):  # type: ignore[misc]
    """`TieringOffloadingSpec` over `CpuWorker`."""

    def get_worker(self, kv_caches: Any) -> CpuWorker:
        region = SharedOffloadRegion(
            engine_id=self._engine_id,
            num_chunks=self.num_chunks,
            rank=0,
            kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker,
        )
        return CpuWorker(kv_caches, region)
