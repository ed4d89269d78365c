"""What vLLM is told of the tier, alone and beside another connector; and what a killed server leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.errors import ConfigError
from lightmem_engine.vllm_plugin.kept.options import ConnectorOptions, beside, kv_transfer_config
from lightmem_engine.vllm_plugin.tier.options import check_room, engine_id, remove_leftovers

OFFLOAD = replace(EngineConfig(), **{"kv.tier": "offload", "kv.host_bytes": 1 << 30})


def test_vllm_is_told_of_its_offloading_and_of_our_store(tmp_path: Path) -> None:
    told = kv_transfer_config(OFFLOAD, tmp_path)
    assert told is not None
    assert told["kv_connector"] == "LightMemOffloadingConnector"
    assert told["kv_load_failure_policy"] == "recompute"
    extra = told["kv_connector_extra_config"]
    assert (extra["spec_name"], extra["cpu_bytes_to_use"]) == ("TieringOffloadingSpec", 1 << 30)
    (tier,) = extra["secondary_tiers"]
    assert tier.pop("type") == "lightmem"
    options = ConnectorOptions.of(tier)
    assert (options.root, options.socket) == (str(tmp_path / "kv"), str(tmp_path / "engine.sock"))
    assert options.max_bytes == OFFLOAD.kv.max_bytes
    assert kv_transfer_config(replace(OFFLOAD, **{"kv.mode": "off"}), tmp_path) is None


@pytest.mark.parametrize("config", [OFFLOAD, EngineConfig()])
def test_another_connector_keeps_all_that_it_was_given(tmp_path: Path, config: EngineConfig) -> None:
    theirs: dict[str, Any] = {
        "kv_connector": "Other",
        "engine_id": "theirs",
        "kv_buffer_device": "cpu",
        "kv_role": "kv_both",
        "kv_rank": None,
        "kv_port": 7,
        "kv_connector_extra_config": {"a": 1},
    }
    ours = kv_transfer_config(config, tmp_path)
    assert ours is not None
    both = beside(ours, theirs)
    assert both["kv_connector"] == "MultiConnector"
    mine, other = both["kv_connector_extra_config"]["connectors"]
    assert mine == {name: value for name, value in ours.items() if name != "engine_id"}
    assert other == {name: value for name, value in theirs.items() if name not in ("engine_id", "kv_rank")}
    assert both["engine_id"] == ours.get("engine_id", "theirs")
    more = beside(ours, {**both, "kv_connector_extra_config": {"connectors": [other], "b": 2}})
    assert more["kv_connector_extra_config"] == {"connectors": [mine, other], "b": 2}


def test_a_killed_servers_host_cache_is_removed_and_no_others(tmp_path: Path) -> None:
    mine, other, shared = tmp_path / "mine", tmp_path / "other", tmp_path / "shm"
    shared.mkdir()
    names = [f"vllm_offload_{engine_id(mine)}.mmap", f"vllm_offload_{engine_id(mine)}_dp1.mmap"]
    kept = [f"vllm_offload_{engine_id(other)}.mmap", "vllm_offload_somebody.mmap", "psm_1"]
    for name in names + kept:
        (shared / name).touch()
    assert remove_leftovers(mine, shared) == 2
    assert sorted(path.name for path in shared.iterdir()) == sorted(kept)
    assert remove_leftovers(mine, shared) == 0


def test_a_host_cache_that_does_not_fit_is_refused_before_vllm_dies_of_it(tmp_path: Path) -> None:
    check_room(4096, tmp_path)
    with pytest.raises(ConfigError, match=r"kv\.host_bytes is 1152921504606846976"):
        check_room(1 << 60, tmp_path)
    with pytest.raises(ConfigError, match="needs"):
        check_room(1, tmp_path / "nowhere")
