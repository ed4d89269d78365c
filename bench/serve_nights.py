"""Nights beside chats: runs of sleep, one after another, over users who have told something and are not there."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

import httpx

from bench.bench_prefix import CITIES, PEOPLE


@dataclass(frozen=True, slots=True)
class Slept:
    """Since the server's start: runs that ended well, calls of the model that ended, and their tokens."""

    runs: int
    calls: int
    tokens: int

    def since(self, before: Slept) -> dict[str, int]:
        """What has been added, by name."""
        return {of.name: getattr(self, of.name) - getattr(before, of.name) for of in fields(self)}


class Nights:
    """Over one server. What a night consolidates is taken in before anybody chats, as long as there are users left:
    beside chats that never pause, the encoders would need longer for it than an arm lasts."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/memory"
        self._told: deque[str] = deque()
        self._num_told = 0
        self._num_ended = 0

    async def prepare(self, users: int) -> None:
        """Have so many users told what there is to consolidate. Raises `httpx.HTTPError`."""
        async with httpx.AsyncClient(timeout=600) as http:
            await self._tell(http, users)

    @asynccontextmanager
    async def asleep(self, http: httpx.AsyncClient) -> AsyncIterator[None]:
        """One night after another while the context lasts. Raises `httpx.HTTPError` if one failed."""
        task = asyncio.create_task(self._sleep(http))
        try:
            yield
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.wait({task})

    async def slept(self, http: httpx.AsyncClient) -> Slept:
        """How far all nights have come."""
        stats = (await http.get(f"{self._url}/stats")).raise_for_status().json()
        spent = stats["usage"].get("sleep", {})
        tokens = spent.get("prompt_tokens", 0) + spent.get("completion_tokens", 0)
        return Slept(self._num_ended, spent.get("calls", 0), tokens)

    async def _tell(self, http: httpx.AsyncClient, users: int) -> None:
        """So many users tell where others live, and correct themselves."""
        for _ in range(users):
            self._num_told += 1
            night, user = self._num_told, f"sleeper {os.getpid()} {time.monotonic()}"
            facts = [f"My {person} moved to {CITIES[(at + night) % 10]}." for at, person in enumerate(PEOPLE)]
            facts += [f"My {person} lives in {CITIES[(at + night + 3) % 10]} now." for at, person in enumerate(PEOPLE)]
            body = {"user_id": user, "messages": [{"role": "user", "content": fact} for fact in facts], "wait": True}
            (await http.post(f"{self._url}/add", json=body)).raise_for_status()
            self._told.append(user)

    async def _sleep(self, http: httpx.AsyncClient) -> None:
        while True:
            if not self._told:
                await self._tell(http, 1)
            body = {"user_id": self._told.popleft(), "wait": True}
            run = (await http.post(f"{self._url}/sleep", json=body)).raise_for_status().json()
            self._num_ended += run["state"] == "done"
