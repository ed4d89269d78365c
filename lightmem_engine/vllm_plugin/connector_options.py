"""What the launcher tells the connector, by way of vLLM's `--kv-transfer-config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError
from lightmem_engine.keeping import kv_directory
from lightmem_engine.kv.index import Bounds
from lightmem_engine.kv.store import KVStore

MODULE = "lightmem_engine.vllm_plugin.connector"
NAME = "LightMemConnector"


@dataclass(frozen=True, slots=True)
class ConnectorOptions:
    """root: of the KV store, the owner's.   socket: the owner's.   attention, layers: whether chats that ask are looked
    at, and in which layers (none: the last third).   The rest as in `config_kv`."""

    root: str
    socket: str
    max_bytes: int
    tenant_share: float = 1.0
    min_free_bytes: int = 0
    min_tokens: int = 1
    sync: bool = False
    attention: bool = False
    layers: Sequence[int] = ()

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> ConnectorOptions:
        """Those that vLLM hands on. Raises `ConfigError`."""
        try:
            return cls(**extra)
        except TypeError as error:
            raise ConfigError(f"kv_connector_extra_config: {error}") from error

    def open_store(self) -> KVStore:
        """The store, in this process. Raises `StoreError`."""
        bounds = Bounds(self.max_bytes, self.tenant_share, self.min_free_bytes)
        return KVStore(Path(self.root), bounds, sync=self.sync)


def kv_transfer_config(config: EngineConfig, data_dir: Path) -> dict[str, Any] | None:
    """The value of `--kv-transfer-config`; None if no KV is to be kept."""
    kv = config.kv
    if kv.mode != "persist":
        return None
    options = ConnectorOptions(
        root=str(kv_directory(config, data_dir)),
        socket=str(data_dir / "engine.sock"),
        max_bytes=kv.max_bytes,
        tenant_share=kv.tenant_share,
        min_free_bytes=kv.min_free_bytes,
        min_tokens=kv.min_tokens,
        sync=kv.durability == "fsync",
        attention=config.classifier.source == "served",
        layers=list(config.classifier.layers),
    )
    return {
        "kv_connector": NAME,
        "kv_connector_module_path": MODULE,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": asdict(options),
    }
