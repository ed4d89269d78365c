"""The owner's numbers behind a model server's own, in whichever format it speaks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from lightmem_engine.client import EngineClient
from lightmem_engine.types import Message, Scope
from lightmem_engine.vllm_plugin.metrics import MetricsPage
from tests.support.server import STUB_MODELS, Server

THEIRS = "# TYPE vllm:x gauge\nvllm:x 1.0\n"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Page:
    """A model server with metrics, and ours around it."""

    def __init__(self, client: EngineClient) -> None:
        self._page = MetricsPage(client)
        self._theirs = Starlette(routes=[Route("/metrics", self._metrics)])
        self.status = 200

    async def _metrics(self, request: Request) -> Response:
        if "accept-encoding" in request.headers:
            return PlainTextResponse("compressed", 500)
        if "openmetrics" in request.headers.get("accept", ""):
            return Response(THEIRS + "# EOF\n", media_type=OPEN)
        return PlainTextResponse(THEIRS, self.status)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await self._page.serve(self._theirs, scope, receive, send)


async def _get(page: Page, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(page)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/metrics", headers={"accept-encoding": "gzip", **headers})


@pytest_asyncio.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """Without an owner."""
    client = EngineClient(tmp_path / "engine.sock")
    yield Page(client)
    await client.aclose()


async def test_without_an_owner_the_page_says_so(page: Page) -> None:
    text = (await _get(page)).text
    assert text.startswith(THEIRS)
    assert "lightmem:engine_up 0.0" in text
    assert "lightmem:users" not in text, "nobody knows how many"


async def test_what_is_no_page_passes_as_it_is(page: Page) -> None:
    page.status = 503
    answer = await _get(page)
    assert (answer.status_code, answer.text) == (503, THEIRS)


async def test_open_metrics_end_once(page: Page) -> None:
    text = (await _get(page, accept=OPEN)).text
    assert text.startswith(THEIRS)
    assert text.count("# EOF") == 1
    assert text.endswith("# EOF\n")


async def test_an_owners_sizes_and_totals_are_shown(tmp_path: Path) -> None:
    with Server(tmp_path / "data", STUB_MODELS):
        client = EngineClient(tmp_path / "data" / "engine.sock")
        await client.add(Scope("ann"), [Message("user", "My cat is called Miso.")], wait=True)
        text = (await _get(Page(client))).text
        await client.aclose()
    assert "lightmem:engine_up 1.0" in text
    assert "lightmem:users 1.0" in text
    assert "lightmem:messages_pending 0.0" in text
    assert re.search(r'^lightmem:device_items_total\{lane="embed"\} [1-9]', text, re.MULTILINE)
    assert "lightmem:kv_bytes_used" in text
    assert "ann" not in text
