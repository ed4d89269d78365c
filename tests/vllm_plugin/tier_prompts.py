"""Prompts as the owner of the memory and vLLM know them; nothing here needs vLLM."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from lightmem_engine.client import EngineClient
from lightmem_engine.types import Scope, TurnOptions

Told = tuple[list[bytes], str, Any]  # block hashes, salt, parameters for the transfer of KV


def hashes_of(words: str, count: int) -> list[bytes]:
    """vLLM's block hashes of a prompt that begins with these words."""
    return [f"{words}/{n}".encode().ljust(32, b".") for n in range(count)]


def turn_of(data: Path, user: str, words: str = "I live in Lisbon.", tenant: str = "default") -> tuple[str, Any]:
    """Salt and parameters of a chat's first turn, from the owner itself."""

    async def ask() -> tuple[str, Any]:
        client = EngineClient(data / "engine.sock")
        turn = await client.open_turn(
            Scope(user, tenant), [{"role": "user", "content": words}], TurnOptions(session=words)
        )
        await client.close_turn(turn.turn_id, "Fine.", "complete")
        await client.aclose()
        return turn.salt, dict(turn.kv_params)

    return asyncio.run(ask())


def prompt_of(data: Path, user: str, num_chunks: int, tenant: str = "default") -> Told:
    """A prompt of a user's first turn that begins with the user's name."""
    return hashes_of(user, num_chunks), *turn_of(data, user, tenant=tenant)
