"""The owner's socket: `<data-dir>/engine.sock`, where other processes of this user reach the engine.

Who can open the socket owns the directory, so a request on it is an admin's unless it says otherwise, and names its
tenant in a header.
Chat turns of other processes are served here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import unquote

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import StoreError
from lightmem_engine.serving import errors
from lightmem_engine.serving.keys import Caller
from lightmem_engine.serving.kv_owner_routes import add_kv_owner_routes
from lightmem_engine.serving.turn_routes import TURN_PATHS, add_turn_routes
from lightmem_engine.wire import ADMIN_HEADER, TENANT_HEADER
from lightmem_engine.wire_kv import KV_PATHS

SOCKET_NAME = "engine.sock"
GRACE_SECONDS = 5

logger = logging.getLogger(__name__)


@asynccontextmanager
async def owner_socket(app: ASGIApp, engine: LocalEngine) -> AsyncIterator[None]:
    """Serve the application on the owner's socket too, while the context lasts. Raises `StoreError` if it cannot be."""
    with _listening(engine.directory) as listener:
        options = uvicorn.Config(
            OwnerApp(app, engine),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = _Quiet(options)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task


class OwnerApp:
    """ASGI: the server's application plus the turn routes, with every request marked as the owner's own.

    `scope["state"]` says `trusted` and `caller`.
    """

    def __init__(self, app: ASGIApp, engine: LocalEngine) -> None:
        self._app = app
        self._turns = FastAPI(openapi_url=None)
        self._turns.state.engine = engine
        errors.install(self._turns)
        add_turn_routes(self._turns, engine)
        add_kv_owner_routes(self._turns)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Mark the request and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        tenant = unquote(headers.get(TENANT_HEADER.encode(), b"").decode("latin-1")) or "default"
        caller = Caller(tenant, admin=headers.get(ADMIN_HEADER.encode()) != b"0")
        marks = {"trusted": True, "caller": caller}
        marked = {**scope, "state": {**scope.get("state", {}), **marks}}
        await (self._turns if scope["path"] in TURN_PATHS | KV_PATHS else self._app)(marked, receive, send)


class _Quiet(uvicorn.Server):
    """A server beside the main one, which alone hears signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing to capture."""
        yield


@contextmanager
def _listening(directory: Path) -> Iterator[socket.socket]:
    """The listening socket, open to this user alone; its file goes with it.

    The directory's lock is held, so a socket file that is there already is a dead process's.
    """
    path = directory / SOCKET_NAME
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            path.unlink(missing_ok=True)
            with _short_name(path) as name:
                listener.bind(name)
            path.chmod(0o600)  # before `listen`: until then nobody can connect
            listener.listen(128)
            own = path.stat().st_ino
        except OSError as error:
            raise StoreError(f"cannot listen on {path}: {error.strerror or error}") from error
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == own:  # a later owner's socket may be there already
                    path.unlink()
    finally:
        listener.close()


@contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """A name of the path short enough for a socket address, whose limit is about 100 characters."""
    if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").exists():
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
