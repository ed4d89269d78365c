"""The HTTP face: OpenAI's chat routes and the native memory routes over one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from lightmem_engine.config import EngineConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.serving import errors
from lightmem_engine.serving.access import KeyCheck
from lightmem_engine.serving.backends import Backend
from lightmem_engine.serving.body import StrictRoute
from lightmem_engine.serving.context import RequestContext
from lightmem_engine.serving.gateway import Gateway
from lightmem_engine.serving.keys import KeyRing
from lightmem_engine.serving.limits import BodyLimit, Capacity
from lightmem_engine.serving.local_backend import LocalBackend
from lightmem_engine.serving.memory_routes import add_memory_routes
from lightmem_engine.serving.metrics import Metrics
from lightmem_engine.serving.openai_routes import add_chat_routes, add_health_routes
from lightmem_engine.serving.upstream import Target, Upstream
from lightmem_engine.version import VERSION


def create_app(engine: LocalEngine, config: EngineConfig, keys: KeyRing) -> FastAPI:
    """The application over an open engine, which is closed when the application stops."""
    metrics = Metrics()
    target = chat_target(config)
    upstream = None if target is None else Upstream(target, lambda kind: metrics.upstream_errors.labels(kind).inc())
    backend: Backend = upstream or LocalBackend(engine.lm.name, engine.answer)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await backend.aclose()
        await engine.aclose()

    app = FastAPI(
        title="LightMem Engine",
        version=VERSION,
        lifespan=lifespan,
        # In front of another server, that one's documentation stays where it is.
        openapi_url="/openapi.json" if upstream is None else "/v1/memory/openapi.json",
        docs_url="/docs" if upstream is None else None,
        redoc_url=None,
    )
    app.state.engine = engine
    app.router.route_class = StrictRoute
    errors.install(app)
    add_health_routes(app, backend, metrics)
    add_chat_routes(app, backend, metrics, config.identity.trust, gateway=upstream is not None)
    add_memory_routes(app)
    # The last one added is the outermost.
    if upstream is not None:
        app.add_middleware(Gateway, upstream=upstream)
    server = config.server
    app.add_middleware(BodyLimit, max_bytes=server.max_body_bytes)
    app.add_middleware(Capacity, max_chats=server.max_chats, max_requests=server.max_requests, metrics=metrics)
    app.add_middleware(KeyCheck, keys=keys)
    app.add_middleware(RequestContext, metrics=metrics)
    return app


def chat_target(config: EngineConfig) -> Target | None:
    """The server that answers chats, None for the model in process.

    A remote language model (`lm.url`) is one, too: what it says about tools, reasoning or usage must arrive as it is.
    """
    upstream, lm = config.upstream, config.lm
    if upstream.url:
        url, key = upstream.url, upstream.api_key
    elif lm.url and lm.backend in ("auto", "remote"):
        url, key = lm.url, lm.api_key
    else:
        return None
    return Target(
        url,
        key,
        upstream.connect_seconds,
        upstream.read_seconds,
        upstream.max_connections,
        keep_authorization=not config.identity.keys,
    )
