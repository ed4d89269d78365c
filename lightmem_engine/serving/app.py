"""The HTTP face: OpenAI's chat routes and the native memory routes over one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from lightmem_engine.engine import LocalEngine
from lightmem_engine.serving import errors
from lightmem_engine.serving.limits import BodyLimit
from lightmem_engine.serving.memory_routes import add_memory_routes
from lightmem_engine.serving.openai_routes import add_openai_routes
from lightmem_engine.version import VERSION


def create_app(engine: LocalEngine, max_body_bytes: int) -> FastAPI:
    """The application over an open engine, which is closed when the application stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.aclose()

    app = FastAPI(title="LightMem Engine", version=VERSION, lifespan=lifespan)
    app.state.engine = engine
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    errors.install(app)
    add_openai_routes(app)
    add_memory_routes(app)
    return app
