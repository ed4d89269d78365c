"""Our native routes under vLLM: passed on to the owner's socket, byte for byte, in the caller's name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
from starlette.types import Receive, Scope, Send

from lightmem_engine.errors import EngineDown
from lightmem_engine.serving import errors
from lightmem_engine.serving.backends import RawHeaders
from lightmem_engine.serving.gateway import pass_through
from lightmem_engine.serving.keys import Caller
from lightmem_engine.serving.turn_routes import TURN_PATHS
from lightmem_engine.serving.upstream import KEEPALIVE_SECONDS, Target, Upstream
from lightmem_engine.wire import ADMIN_HEADER, TENANT_HEADER

READ_SECONDS = 24 * 3600.0  # a flush or an import takes as long as it takes
MAX_CONNECTIONS = 256
_OURS = frozenset({TENANT_HEADER.encode(), ADMIN_HEADER.encode(), b"authorization", b"x-request-id"})


class OwnerProxy:
    """Connections to the owner. An owner that is away is a 503 with code `engine_down`."""

    def __init__(self, socket: Path) -> None:
        self._directory = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        short = f"/proc/self/fd/{self._directory}/{socket.name}" if Path("/proc/self/fd").exists() else str(socket)
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS)
        transport = httpx.AsyncHTTPTransport(uds=short, limits=limits)
        target = Target("http://engine", read_seconds=READ_SECONDS, max_connections=MAX_CONNECTIONS)
        self._upstream = _Owner(target, lambda kind: None, transport)

    async def pass_on(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """Answer one request to our routes. Chat turns are for processes of this machine, not for callers."""
        if scope["path"] in TURN_PATHS:
            await errors.body("not_found", "Not Found", 404)(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in _OURS]
        kept.append((TENANT_HEADER.encode(), quote(caller.tenant).encode()))
        kept.append((ADMIN_HEADER.encode(), b"1" if caller.admin else b"0"))
        kept.append((b"x-request-id", str(scope["state"]["request_id"]).encode()))
        await pass_through(self._upstream, {**scope, "headers": kept}, receive, send)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._upstream.aclose()
        os.close(self._directory)


class _Owner(Upstream):
    """The owner as the server behind us; its absence has a name of its own."""

    async def send(
        self, method: str, target: bytes, headers: RawHeaders, content: bytes | AsyncIterator[bytes] | None
    ) -> httpx.Response:
        try:
            return await super().send(method, target, headers, content)
        except errors.UpstreamUnreachable as error:
            raise EngineDown("the memory is being started again; what was acknowledged is safe") from error
