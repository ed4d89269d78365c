"""Every name of vLLM that the KV connector uses. Checked with vLLM 0.32; the interface calls itself experimental."""

from __future__ import annotations

from typing import Any

from vllm import __version__ as VLLM_VERSION
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from lightmem_engine.errors import BackendUnavailable, ConfigError
from lightmem_engine.models.checkpoint import locate

__all__ = [
    "KVConnectorBase_V1",
    "KVConnectorMetadata",
    "KVConnectorRole",
    "KVConnectorWorkerMetadata",
    "SupportsHMA",
    "Unsuited",
    "block_bytes",
    "facts_of",
    "weights_of",
]


class Unsuited(Exception):
    """A model or a set-up whose KV the connector does not handle; in words for the log."""


def facts_of(vllm_config: Any) -> dict[str, Any]:
    """What of vLLM's configuration changes KV or block hashes, as JSON values, besides the weights.

    Raises `Unsuited` for a set-up whose KV this connector does not handle.
    """
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    if parallel.world_size != 1:
        raise Unsuited("the model is spread over several workers")
    algorithm = str(cache.prefix_caching_hash_algo)
    if not algorithm.startswith("sha256"):
        raise Unsuited(f"--prefix-caching-hash-algo is {algorithm}, not sha256 or sha256_cbor")
    return {
        "engine": f"vllm {VLLM_VERSION}",
        "dtype": str(model.dtype),
        "cache_dtype": str(cache.cache_dtype),
        "quantization": str(model.quantization),
        "block_size": cache.block_size,
        "layers": model.get_num_layers(parallel),
        "kv_heads": model.get_num_kv_heads(parallel),
        "head_size": model.get_head_size(),
        "rope": str(getattr(model.hf_text_config, "rope_parameters", None)),
        "device": str(vllm_config.device_config.device_type),
        "eager": bool(model.enforce_eager),
        "hash": algorithm,
    }


def block_bytes(kv_cache_config: Any) -> int:
    """Of a block in the caches of all layers; of one kind of attention."""
    (group,) = kv_cache_config.kv_cache_groups
    return int(group.kv_cache_spec.page_size_bytes) * len(group.layer_names)


def weights_of(vllm_config: Any) -> str:
    """What tells the model's weights from others. vLLM's dummy weights depend on nothing but the model's shapes.

    Raises `Unsuited` for weights that lie where we cannot read them.
    """
    if vllm_config.load_config.load_format == "dummy":
        return f"dummy, {vllm_config.model_config.hf_config.to_json_string()}"
    try:
        return locate(vllm_config.model_config.model).digest
    except (ConfigError, BackendUnavailable) as error:
        raise Unsuited(str(error)) from error
