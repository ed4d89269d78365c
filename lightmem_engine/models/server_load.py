"""What a vLLM server says of its own load: its Prometheus metrics, read while background work wants to run."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable

import httpx

from lightmem_engine.runtime.policy import Load

INTERVAL_SECONDS = 0.25
CALM_SECONDS = 2.0  # where the server itself lets background calls stand still, and only its cache is watched
RETRY_SECONDS = 30.0  # for a server that has no such metrics
TIMEOUT_SECONDS = 2.0
_SAMPLE = re.compile(r"^vllm:(\w+?)(?:\{.*\})? (\S+)(?: \d+)?$", re.MULTILINE)
_KV_USAGE = ("kv_cache_usage_perc", "gpu_cache_usage_perc")


def load_of(text: str) -> Load | None:
    """The load that an exposition shows, over all engines; None if it is not vLLM's."""
    found: dict[str, list[float]] = {}
    for name, value in _SAMPLE.findall(text):
        number = _number(value)
        if number is not None:
            found.setdefault(name, []).append(number)
    if "num_requests_running" not in found:
        return None
    usage = [value for name in _KV_USAGE for value in found.get(name, ())]
    waiting = sum(found.get("num_requests_waiting", ()))
    return Load(sum(found["num_requests_running"]), waiting, max(usage, default=0.0))


class LoadWatch:
    """Reads a server's load while somebody wants to know. Belongs to one event loop; `start` in it."""

    def __init__(
        self,
        url: str,
        tell: Callable[[Load | None], None],
        is_wanted: Callable[[], bool],
        *,
        api_key: str = "",
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """url: the server's, with or without `/v1`.   tell: is told each load, None when there is none to tell.
        interval: seconds between two readings, each of which costs the server some milliseconds."""
        self._url = url.rstrip("/").removesuffix("/v1").rstrip("/") + "/metrics"
        self._tell = tell
        self._is_wanted = is_wanted
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, headers=self._headers) as client:
            while True:
                if not self._is_wanted():
                    await asyncio.sleep(self._interval)
                    continue
                load = await self._read(client)
                self._tell(load)
                await asyncio.sleep(RETRY_SECONDS if load is None else self._interval)

    async def _read(self, client: httpx.AsyncClient) -> Load | None:
        try:
            response = await client.get(self._url)
        except httpx.HTTPError:
            return None  # the calls themselves say what is wrong with the server
        return load_of(response.text) if response.status_code == 200 else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
