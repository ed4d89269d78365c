"""Every name of vLLM that the offload tier uses, and what differs between releases.

The tier's interface was renamed on the way from 0.26 to 0.32: a job is a `JobMetadata` with `block_ids` in the one, a
`TransferJob` with `chunk_ids` in the other, and only the later one can be told which chunks of a failed load are good.
What is there is looked at; no version is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.platforms import current_platform
from vllm.v1.kv_offload import base as _base
from vllm.v1.kv_offload.base import (
    LookupResult,
    OffloadingCounterMetadata,
    OffloadPolicy,
    RequestOffloadingContext,
    make_offload_key,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

from lightmem_engine.vllm_plugin.compat_kv import facts_of

__all__ = [
    "STORAGE",
    "LookupResult",
    "OffloadPolicy",
    "OffloadingConnector",
    "OffloadingConnectorStats",
    "OffloadingCounterMetadata",
    "RequestOffloadingContext",
    "SecondaryTierFactory",
    "SecondaryTierManager",
    "chunk_hashes",
    "job_result",
    "make_offload_key",
    "register_tier",
    "slots_of",
    "tier_facts",
    "tiers_of",
    "tokens_per_chunk",
]

# Where a hit comes from, for vLLM's own counters; nothing where a tier cannot say so.
STORAGE: Any = getattr(getattr(_base, "Medium", None), "STORAGE", None)
_TELLS_GOOD_KEYS = "successful_keys" in {field.name for field in fields(JobResult)}


def slots_of(job: Any) -> list[int]:
    """The rows of the host cache that a job is about, in the order of its keys."""
    ids = job.chunk_ids if hasattr(job, "chunk_ids") else job.block_ids
    return [int(one) for one in ids]


def job_result(id: int, *, is_success: bool, good: Collection[bytes] = ()) -> Any:
    """How a job ended. good: of a failed load, the keys that were loaded; where vLLM takes none, all have failed."""
    if not is_success and good and _TELLS_GOOD_KEYS:
        return JobResult(job_id=id, success=False, successful_keys=list(good))
    return JobResult(job_id=id, success=is_success)


def register_tier(kind: str, module: str, name: str) -> None:
    """Make a tier known by a name, in this process. Again is no error."""
    try:
        SecondaryTierFactory.get_tier_class({"type": kind})
    except ValueError:
        SecondaryTierFactory.register_tier(kind, module, name)


def tiers_of(connector: Any) -> list[Any]:
    """The tiers behind an offloading connector's scheduler half."""
    return list(connector.connector_scheduler.manager.secondary_tiers)


def chunk_hashes(spec: Any, block_hashes: Sequence[bytes]) -> list[bytes]:
    """vLLM's hashes of a request's whole chunks, in order. spec: the offloading's."""
    step = tokens_per_chunk(spec) // int(spec.tokens_per_hash)
    return [bytes(one) for one in block_hashes[step - 1 :: step]]


def tokens_per_chunk(spec: Any) -> int:
    """Tokens of one row of the host cache."""
    return int(spec.tokens_per_block[0]) * int(spec.blocks_per_chunk)


def tier_facts(vllm_config: Any) -> dict[str, Any]:
    """What of vLLM's configuration changes the bytes of a row, as JSON values, besides the weights.

    Raises `Unsuited` for a set-up whose KV is not handled.
    """
    attention = getattr(vllm_config, "attention_config", None)
    return {
        **facts_of(vllm_config),
        "adapter": "tier",
        "gpu": str(current_platform.get_device_name()),
        "backend": str(getattr(attention, "backend", None)),
        "runner": bool(getattr(vllm_config, "use_v2_model_runner", False)),
    }
