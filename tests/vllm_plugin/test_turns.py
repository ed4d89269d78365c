"""The owner's calls are bounded, and the foreground is announced beside the chat."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lightmem_engine.client import EngineClient
from lightmem_engine.errors import EngineDown
from lightmem_engine.types import TurnOptions
from lightmem_engine.vllm_plugin.turns import OwnerTurns

QUESTION = [{"role": "user", "content": "hello"}]


async def test_an_owner_that_is_away_is_down(tmp_path: Path) -> None:
    client = EngineClient(tmp_path / "engine.sock")
    turns = OwnerTurns(client)
    with pytest.raises(EngineDown):
        await turns.open_turn(None, QUESTION, TurnOptions())
    with pytest.raises(EngineDown):
        await turns.close_turn("t", "bye", "complete")
    async with turns.foreground():
        pass
    await turns.aclose()
    await client.aclose()


async def test_an_owner_that_is_silent_is_down_after_a_while(tmp_path: Path) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_unix_server(silent, tmp_path / "engine.sock")
    client = EngineClient(tmp_path / "engine.sock")
    turns = OwnerTurns(client, seconds=1.0)
    with pytest.raises(EngineDown, match="did not answer"):
        await turns.open_turn(None, QUESTION, TurnOptions())
    assert asked.is_set()
    async with turns.foreground():  # nobody waits for the announcement
        pass
    await turns.aclose()
    await client.aclose()
    await asyncio.wait_for(left.wait(), 30)
    server.close()
    await server.wait_closed()
