"""vLLM's `/metrics` with the owner's numbers behind vLLM's own.

What an API server process counts stands in vLLM's registry already. The engine's sizes and totals are in the owner;
whichever process is scraped asks for them, so they are shown once and are the same everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightmem_engine.client import EngineClient
from lightmem_engine.errors import LightMemError
from lightmem_engine.serving.engine_metrics import EngineMetrics

METRICS_PATH = "/metrics"
SECONDS = 2.0  # for the owner; a scrape goes on without it
_END = b"# EOF\n"  # of OpenMetrics


class MetricsPage:
    """One API server process's `/metrics`."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._registry = CollectorRegistry()
        self._engine = EngineMetrics(self._registry)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """vLLM's answer, and ours appended in the same format. Whatever is not a page of metrics passes as it is."""
        start: Message = {}
        pieces: list[bytes] = []

        async def gather(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                pieces.append(message.get("body", b""))

        # What is appended to cannot be compressed.
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        await app({**scope, "headers": headers}, receive, gather)
        body = b"".join(pieces)
        if start["status"] == 200:
            self._engine.update(*await self._asked())
            kind = dict(start["headers"]).get(b"content-type", b"")
            body = self._appended(body, is_open=b"openmetrics" in kind)
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await send({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _appended(self, page: bytes, *, is_open: bool) -> bytes:
        if is_open:
            ours: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return page.removesuffix(_END) + ours
        return page + generate_latest(self._registry)

    async def _asked(self) -> tuple[Mapping[str, Any] | None, int]:
        try:
            async with asyncio.timeout(SECONDS):
                found = await self._client.owner(counts=True)
        except (LightMemError, TimeoutError):
            return None, 0
        return found["stats"], found["queued_tokens"]
