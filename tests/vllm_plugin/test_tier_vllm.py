"""Our tier in a real vLLM, whose offloading copies within the CPU's memory: kept through kill -9, of one user alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from lightmem_engine.client import EngineClient
from lightmem_engine.models.prefix_cache import common_prefix
from lightmem_engine.types import Scope, TurnOptions
from tests.kv.chains import files
from tests.support.server import Server
from tests.support.waiting import wait_until
from tests.vllm_plugin.test_kept_vllm import BLOCK, SETTINGS, TOLD, _standing, pytestmark

__all__ = ["pytestmark"]
OFFLOAD: dict[str, Any] = {"kv.tier": "offload", "kv.host_bytes": 32 << 20}


def _kept(server: Server, chunks: int) -> None:
    """Wait until so many chunks are on the disk; the owner knows of their manifest before."""
    wait_until(lambda: _standing(server, 1)["chunks"] >= chunks)
    assert _standing(server, 1)["chunks"] == chunks


async def test_a_returning_session_after_kill_9_of_the_model_server(tmp_path: Path) -> None:
    from tests.vllm_plugin.kept_vllm import KeptVllm

    data, log = tmp_path / "data", tmp_path / "vllm.log"
    history: list[dict[str, str]] = [{"role": "user", "content": TOLD}]
    ann, bob, options = Scope("ann"), Scope("bob", "other"), TurnOptions(session="s")
    with Server(data, SETTINGS) as server:
        client = EngineClient(data / "engine.sock")
        with KeptVllm(data, log, **OFFLOAD) as vllm:
            turn = await client.open_turn(ann, history, options)
            first = vllm.turn(turn)
            assert first["cached"] == 0
            assert await client.close_turn(turn.turn_id, first["text"], "complete")
            _kept(server, first["prompt"] // BLOCK)
            history += [
                {"role": "assistant", "content": first["text"]},
                {"role": "user", "content": "Where does my sister live?"},
            ]
            turn = await client.open_turn(ann, history, options)
            calm = vllm.ask(turn.messages, "a salt of nobody", {})  # computed, without any cache
            assert calm["cached"] == 0
            vllm.kill()
        with KeptVllm(data, log, **OFFLOAD) as vllm:
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
        await client.aclose()
