"""Another KV connector, as somebody may have one: it finds nothing, and notes in a file what it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightmem_engine.vllm_plugin.compat_kv import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA


class OtherConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """`notes` of its extra options names the file."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._notes = Path(vllm_config.kv_transfer_config.kv_connector_extra_config["notes"])

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        self._note("asked")
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._note(f"allocated {num_external_tokens}")

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        return False, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        self._note("saved")

    def _note(self, words: str) -> None:
        with self._notes.open("a", encoding="utf-8") as file:
            file.write(f"{words}\n")
