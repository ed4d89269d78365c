"""What the launcher tells vLLM's offloading, and the host memory that it uses."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError

MODULE = "lightmem_engine.vllm_plugin.tier.connector"
NAME = "LightMemOffloadingConnector"
SPEC = "TieringOffloadingSpec"  # vLLM's
TIER = "lightmem"
SHARED_MEMORY = Path("/dev/shm")  # where vLLM maps the host cache, whatever we say

logger = logging.getLogger(__name__)


def offload_config(config: EngineConfig, data_dir: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The value of `--kv-transfer-config` with which vLLM's offloading keeps caches in our store.

    options: as `ConnectorOptions` has them.
    """
    return {
        "kv_connector": NAME,
        "kv_connector_module_path": MODULE,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "engine_id": engine_id(data_dir),
        "kv_connector_extra_config": {
            "spec_name": SPEC,
            "cpu_bytes_to_use": config.kv.host_bytes,
            "blocks_per_chunk": 1,
            "secondary_tiers": [{"type": TIER, **options}],
        },
    }


def engine_id(data_dir: Path) -> str:
    """A name for this data directory's host cache, so that what a killed server left of it can be found."""
    return f"lightmem-{hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:24]}"


def check_room(num_bytes: int, folder: Path = SHARED_MEMORY) -> None:
    """Raises `ConfigError` if the host cache does not fit into shared memory: vLLM would die while it fills it."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ConfigError(f"kv.tier = offload needs {folder}: {error}") from error
    if free < num_bytes:
        raise ConfigError(
            f"kv.host_bytes is {num_bytes}, and {folder} has {free} bytes free; give it more (docker: --shm-size), or "
            "set kv.host_bytes lower"
        )


@contextmanager
def no_leftovers(data_dir: Path) -> Iterator[None]:
    """While a server of this data directory runs, and after it, none of another one's host cache is there."""
    remove_leftovers(data_dir)
    try:
        yield
    finally:
        remove_leftovers(data_dir)


def remove_leftovers(data_dir: Path, folder: Path = SHARED_MEMORY) -> int:
    """Remove the host caches of servers of this data directory that were killed; how many. Only while no server uses
    it."""
    removed = 0
    for path in folder.glob(f"vllm_offload_{engine_id(data_dir)}*.mmap"):
        try:
            path.unlink()
            removed += 1
        except OSError as error:
            logger.warning("the host cache of a killed server stays: %s", error)
    return removed
