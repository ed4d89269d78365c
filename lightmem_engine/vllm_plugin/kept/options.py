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
from lightmem_engine.vllm_plugin.tier.options import offload_config

MODULE = "lightmem_engine.vllm_plugin.connector"
NAME = "LightMemConnector"
MULTI = "MultiConnector"  # vLLM's, of several


@dataclass(frozen=True, slots=True)
class ConnectorOptions:
    """root: of the KV store, the owner's.   socket: the owner's.   attention, layers: whether chats that ask are looked
    at, and in which layers (none: the last third).   selective: keep only what is expected to load quicker than it is
    computed, and nothing any more when loads cost more than they save.   The rest as in `config_kv`."""

    root: str
    socket: str
    max_bytes: int
    tenant_share: float = 1.0
    min_free_bytes: int = 0
    min_tokens: int = 1
    sync: bool = False
    selective: bool = False
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
    if not kv.may_persist:
        return None
    options = ConnectorOptions(
        root=str(kv_directory(config, data_dir)),
        socket=str(data_dir / "engine.sock"),
        max_bytes=kv.max_bytes,
        tenant_share=kv.tenant_share,
        min_free_bytes=kv.min_free_bytes,
        min_tokens=kv.min_tokens,
        sync=kv.durability == "fsync",
        selective=kv.mode == "auto",
        attention=config.classifier.source == "served",
        layers=list(config.classifier.layers),
    )
    if kv.tier == "offload":
        return offload_config(config, data_dir, asdict(options))
    return {
        "kv_connector": NAME,
        "kv_connector_module_path": MODULE,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": asdict(options),
    }


def beside(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The value of `--kv-transfer-config` with which both connectors work: ours is asked first, both keep.

    theirs: the options of vLLM's `KVTransferConfig` as they were given; one that names several connectors gains ours.
    """
    ours = dict(ours)
    given = {name: value for name, value in theirs.items() if value is not None}
    # The engine's name belongs to all of them: releases differ in whether one connector may have its own.
    engine = {"engine_id": ours.pop("engine_id", None) or given.pop("engine_id", None)}
    given.pop("engine_id", None)
    extra = dict(given.get("kv_connector_extra_config", {}))
    if given["kv_connector"] == MULTI:
        others = list(extra.pop("connectors", ()))
    else:
        others, extra = [given], {}
    return {
        "kv_connector": MULTI,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        **{name: value for name, value in engine.items() if value},
        "kv_connector_extra_config": {**extra, "connectors": [ours, *others]},
    }
