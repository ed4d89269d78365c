"""Memory in vLLM's API server: an endpoint plugin that stands between vLLM's key check and vLLM's routes.

The plugin puts one ASGI layer innermost: everything vLLM does before its routes (keys, CORS, scaling) has been done
when a request arrives, and the routes behind it are vLLM's own. What it does with a request:

- a chat: identity, `open_turn`, vLLM, `close_turn`, the `memory` object in the answer;
- our native routes: to the owner; `/metrics`: vLLM's, and the owner's numbers behind them (`metrics`);
- any other body: through, without the fields that rank or share (see `policy`); `/v1/responses`, `/v1/messages` and
  `/v1/completions` read and write no memory, but background work stands aside for them as for a chat;
- what bears the internal token: through, as it is.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import REGISTRY
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from lightmem_engine.client import EngineClient
from lightmem_engine.errors import LightMemError
from lightmem_engine.serving import errors
from lightmem_engine.serving.access import CHALLENGE
from lightmem_engine.serving.chat import ChatExchange
from lightmem_engine.serving.context import RequestContext
from lightmem_engine.serving.gateway import CHAT_PATH, NATIVE_PREFIX
from lightmem_engine.serving.keys import Caller
from lightmem_engine.serving.metrics import Metrics
from lightmem_engine.serving.openai_routes import ChatResponse, read_chat
from lightmem_engine.vllm_plugin.inner import InnerBackend, body_then, with_body
from lightmem_engine.vllm_plugin.metrics import METRICS_PATH, MetricsPage
from lightmem_engine.vllm_plugin.policy import cleaned
from lightmem_engine.vllm_plugin.proxy import OwnerProxy
from lightmem_engine.vllm_plugin.ready import readiness
from lightmem_engine.vllm_plugin.settings import INTERNAL, Callers, PluginSettings, received
from lightmem_engine.vllm_plugin.turns import OwnerTurns

READY_PATH = "/health/ready"
ANSWERS = ("/v1/completions", "/v1/responses", "/v1/messages", "/v1/chat/completions/")  # where somebody waits


class MemoryPlugin:
    """See `vllm.plugins.endpoint_plugins.interface.EndpointPlugin`; one per API server process."""

    name = "lightmem"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Raises `ConfigError` if this server was not started by our launcher."""
        self._settings = received()
        self._front: FrontEnd | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Put the layer innermost: last in the list, whatever is added later."""
        app.user_middleware.append(Middleware(MemoryLayer, plugin=self))

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Connect to the owner; called in the loop that serves."""
        self._front = FrontEnd(self._settings, engine_client)

    @property
    def front(self) -> FrontEnd:
        """What serves; there is one before the first request."""
        assert self._front is not None, "vLLM serves before it has initialised its plugins"
        return self._front


class MemoryLayer:
    """ASGI middleware: see the module."""

    def __init__(self, app: ASGIApp, plugin: MemoryPlugin) -> None:
        self._app = app
        self._plugin = plugin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or pass on."""
        if scope["type"] == "http":
            await self._plugin.front.serve(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)


class FrontEnd:
    """One API server process's end of the memory. Belongs to one event loop."""

    def __init__(self, settings: PluginSettings, engine_client: Any) -> None:
        socket = Path(settings.socket)
        self._callers = Callers(settings)
        self._client = EngineClient(socket)
        self._turns = OwnerTurns(self._client)
        self._attention = settings.attention
        self._proxy = OwnerProxy(socket)
        self._metrics = Metrics(REGISTRY)  # vLLM's /metrics shows what is registered here
        self._page = MetricsPage(self._client)
        self._model = engine_client

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. app: vLLM's routes."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        caller = self._callers.find(dict(scope["headers"]).get(b"authorization", b""))
        if caller == INTERNAL:
            await app(scope, receive, send)
        elif path == READY_PATH:
            await (await readiness(self._client, self._model))(scope, receive, send)
        elif path == METRICS_PATH and scope["method"] == "GET":
            await self._page.serve(app, scope, receive, send)
        elif path == CHAT_PATH and scope["method"] == "POST":
            await self._as_ours(_Chat(self, app), scope, receive, send, caller)
        elif path == NATIVE_PREFIX.rstrip("/") or path.startswith(NATIVE_PREFIX):
            plain = {**scope, "path": path, "raw_path": _without_root(scope)}
            await self._as_ours(_Native(self._proxy), plain, receive, send, caller)
        elif scope["method"] == "POST":
            await self._through(app, scope, receive, send, caller, is_waited_for=path.startswith(ANSWERS))
        else:
            await app(scope, receive, send)

    async def _as_ours(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, caller: Caller | None) -> None:
        """With a request id, in the log and in the metrics; strangers get 401 here if they got so far."""
        if caller is None:
            refusal = errors.body("unauthorized", "this server needs a valid API key", 401, CHALLENGE)
            await refusal(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await RequestContext(app, self._metrics)(scope, receive, send)

    async def _through(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, caller: Caller | None, *, is_waited_for: bool
    ) -> None:
        """A body that is not ours, without the fields that are. Anything but JSON passes as it comes."""
        kind = dict(scope["headers"]).get(b"content-type", b"application/json")
        if b"json" not in kind.lower():
            await app(scope, receive, send)
            return
        raw = await Request(scope, receive).body()
        body = cleaned(raw, caller.tenant if caller else "")
        async with self._turns.foreground() if is_waited_for else nullcontext():
            await app(with_body(scope, body), body_then(body, receive), send)

    async def chat(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """A chat, with the memory of whom it names."""
        state = scope["state"]
        state["route"] = CHAT_PATH
        caller: Caller = state["caller"]
        request = Request(scope, receive)
        asked, identity = await read_chat(request, caller.tenant, self._callers.trust, gateway=True)
        backend = InnerBackend(app, scope, caller.tenant, attention=self._attention)
        exchange = ChatExchange(self._turns, backend, self._metrics, asked, identity)
        self._metrics.running("chat", 1)
        try:
            await ChatResponse(exchange)(scope, receive, send)
        finally:
            self._metrics.running("chat", -1)


class _Chat:
    def __init__(self, front: FrontEnd, app: ASGIApp) -> None:
        self._front = front
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._front.chat(self._app, scope, receive, send)
        except (LightMemError, HTTPException) as error:
            await errors.answer(error)(scope, receive, send)


class _Native:
    def __init__(self, proxy: OwnerProxy) -> None:
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["route"] = "memory"
        await self._proxy.pass_on(scope, receive, send, scope["state"]["caller"])


def _without_root(scope: Scope) -> bytes:
    raw: bytes = scope["raw_path"]
    return raw.removeprefix(str(scope.get("root_path", "")).encode())
