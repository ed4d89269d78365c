"""What the offload tier leans on is where this vLLM has it: names, methods and their parameters, read from its source.

Nothing of vLLM is imported, so the same test can be held against the files of any release: `VLLM_SOURCE` names a folder
`vllm` in place of the installed one. 0.26 and 0.32 pass.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from functools import cache
from pathlib import Path

import pytest

from tests.support.vllm_server import HAS_VLLM, NO_VLLM

pytestmark = pytest.mark.skipif(not HAS_VLLM and "VLLM_SOURCE" not in os.environ, reason=NO_VLLM)

CONNECTORS = "distributed/kv_transfer/kv_connector/v1"
BASE = "v1/kv_offload/base.py"
TIERS = "v1/kv_offload/tiering"
# File, class, method: the parameters that we give or take, in order; a release may have more behind them.
METHODS: list[tuple[str, str, str, tuple[str, ...]]] = [
    (f"{TIERS}/base.py", "SecondaryTierManager", "__init__", ("offloading_spec", "primary_kv_view", "tier_type")),
    (f"{TIERS}/base.py", "SecondaryTierManager", "build_metric_definitions", ("extra_config",)),
    (f"{TIERS}/base.py", "SecondaryTierManager", "on_new_request", ("req_context",)),
    (f"{TIERS}/base.py", "SecondaryTierManager", "lookup", ("key", "req_context")),
    (f"{TIERS}/base.py", "SecondaryTierManager", "submit_load", ("job_metadata",)),
    (f"{TIERS}/base.py", "SecondaryTierManager", "submit_store", ("job_metadata",)),
    (f"{TIERS}/base.py", "SecondaryTierManager", "get_finished_jobs", ()),
    (f"{TIERS}/base.py", "SecondaryTierManager", "on_request_finished", ("req_context",)),
    (f"{TIERS}/base.py", "SecondaryTierManager", "drain_jobs", ()),
    (f"{TIERS}/base.py", "SecondaryTierManager", "get_stats", ()),
    (f"{TIERS}/base.py", "SecondaryTierManager", "shutdown", ()),
    (f"{TIERS}/factory.py", "SecondaryTierFactory", "register_tier", ("tier_type", "module_path", "class_name")),
    (f"{TIERS}/factory.py", "SecondaryTierFactory", "get_tier_class", ("tier_config",)),
    (f"{TIERS}/spec.py", "TieringOffloadingSpec", "get_manager", ()),
    (f"{CONNECTORS}/offloading_connector.py", "OffloadingConnector", "on_new_request", ("request",)),
    (
        f"{CONNECTORS}/offloading_connector.py",
        "OffloadingConnector",
        "request_finished_all_groups",
        ("request", "block_ids"),
    ),
    (f"{CONNECTORS}/base.py", "KVConnectorBase_V1", "bind_gpu_block_pool", ("gpu_block_pool",)),
    (f"{CONNECTORS}/offloading_connector.py", "OffloadingConnector", "build_connector_meta", ("scheduler_output",)),
    (f"{CONNECTORS}/offloading_connector.py", "OffloadingConnector", "update_connector_output", ("connector_output",)),
    (
        f"{CONNECTORS}/offloading_connector.py",
        "OffloadingConnector",
        "__init__",
        ("vllm_config", "role", "kv_cache_config"),
    ),
    (
        f"{CONNECTORS}/offloading/metrics.py",
        "OffloadingConnectorStats",
        "increase_counter",
        ("counter_name", "counter_increase_value", "labelvalues"),
    ),
    (f"{CONNECTORS}/offloading/metrics.py", "OffloadingConnectorStats", "is_empty", ()),
    (f"{CONNECTORS}/multi_connector.py", "MultiConnector", "on_new_request", ("request",)),
]
# File, class: what stands in its body.
FIELDS: list[tuple[str, str, tuple[str, ...]]] = [
    (f"{TIERS}/base.py", "JobResult", ("job_id", "success")),
    (BASE, "LookupResult", ("HIT", "MISS", "RETRY")),
    (BASE, "OffloadPolicy", ("REQUEST_LEVEL",)),
    (BASE, "RequestOffloadingContext", ("policy",)),
    (BASE, "ReqContext", ("req_id", "kv_transfer_params")),
    (BASE, "OffloadingMetricMetadata", ("documentation", "labelnames")),
    ("config/kv_transfer.py", "KVTransferConfig", ("engine_id", "kv_connector_module_path", "kv_load_failure_policy")),
]
# File, words: attributes and paths that no signature shows.
WORDS: list[tuple[str, str]] = [
    (BASE, "self.tokens_per_block"),
    (BASE, "self.tokens_per_hash"),
    (BASE, "self.blocks_per_chunk"),
    (BASE, "def make_offload_key(block_hash: bytes, group_idx: int)"),
    (BASE, "class OffloadingCounterMetadata"),
    (f"{TIERS}/manager.py", "self.secondary_tiers"),
    (f"{CONNECTORS}/offloading/scheduler.py", "self.manager: OffloadingManager = spec.get_manager()"),
    (f"{CONNECTORS}/offloading_connector.py", "self.connector_scheduler"),
    ("v1/kv_offload/cpu/shared_offload_region.py", 'f"/dev/shm/vllm_offload_{engine_id}.mmap"'),
    ("v1/kv_offload/cpu/spec.py", '"cpu_bytes_to_use"'),
    ("v1/kv_offload/factory.py", '"TieringOffloadingSpec"'),
]


def _root() -> Path:
    given = os.environ.get("VLLM_SOURCE")
    if given:
        return Path(given)
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


@cache
def _classes(file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse((_root() / file).read_text("utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _names(body: list[ast.stmt]) -> set[str]:
    targets: list[ast.expr] = []
    for node in body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(("file", "name", "method", "wanted"), METHODS)
def test_the_method_is_called_so(file: str, name: str, method: str, wanted: tuple[str, ...]) -> None:
    (found,) = (one for one in _classes(file)[name].body if isinstance(one, ast.FunctionDef) and one.name == method)
    parameters = [one.arg for one in found.args.args][1:]  # without self or cls
    assert tuple(parameters[: len(wanted)]) == wanted
    optional = len(found.args.defaults)
    assert len(parameters) - optional <= len(wanted)  # what is behind them need not be given


@pytest.mark.parametrize(("file", "name", "wanted"), FIELDS)
def test_the_class_has_the_fields(file: str, name: str, wanted: tuple[str, ...]) -> None:
    assert set(wanted) <= _names(_classes(file)[name].body)


@pytest.mark.parametrize(("file", "words"), WORDS)
def test_the_words_are_there(file: str, words: str) -> None:
    assert words in (_root() / file).read_text("utf-8")


def test_a_job_names_its_rows_in_one_of_the_two_ways() -> None:
    found = _classes(f"{TIERS}/base.py")
    job = found.get("TransferJob") or found["JobMetadata"]
    names = _names(job.body)
    assert {"job_id", "keys", "req_context"} <= names
    assert names & {"chunk_ids", "block_ids"}
