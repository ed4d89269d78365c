"""What a request may reach: the engine, and the tenant that its key opens."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from lightmem_engine.engine import LocalEngine
from lightmem_engine.serving import errors
from lightmem_engine.serving.keys import Caller, KeyRing
from lightmem_engine.types import Scope

OPEN_PATHS = frozenset({"/health", "/health/ready", "/version", "/metrics"})
CHALLENGE = {"www-authenticate": 'Bearer realm="lightmem-engine"'}


class KeyCheck:
    """ASGI middleware: notes who calls; 401 for a stranger, on every path but the open ones."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass the request on if it may."""
        if scope["type"] == "http":
            caller = _of_socket(scope) or self._caller(scope)
            if caller is None and scope["path"] not in OPEN_PATHS:
                refusal = errors.body("unauthorized", "this server needs a valid API key", 401, CHALLENGE)
                await refusal(scope, receive, send)
                return
            if caller is not None:
                scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, scope: AsgiScope) -> Caller | None:
        if not self._keys.required:
            return Caller()
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.decode("utf-8", "surrogateescape").partition(" ")
        return self._keys.find(token.strip()) if kind.lower() == "bearer" else None


def engine_of(request: Request) -> LocalEngine:
    """The engine behind the application."""
    engine: LocalEngine = request.app.state.engine
    return engine


def caller_of(request: Request) -> Caller:
    """Who the request's key says is calling."""
    return _of_socket(request.scope) or _known(request.scope)


def _of_socket(scope: MutableMapping[str, Any]) -> Caller | None:
    """Who can open the owner's socket owns the directory; its listener notes for which tenant a request speaks."""
    state = scope.get("state", {})
    return _known(scope) if state.get("trusted") else None


def _known(scope: MutableMapping[str, Any]) -> Caller:
    caller: Caller = scope["state"]["caller"]
    return caller


def tenant_of(request: Request) -> str:
    """The tenant whose data the request may touch."""
    return caller_of(request).tenant


def scope_of(request: Request, user: str) -> Scope:
    """A user of the request's tenant."""
    return Scope(user=user, tenant=tenant_of(request))


def require_admin(request: Request) -> None:
    """Refuse with 403 a request whose key is not an admin's."""
    if not caller_of(request).admin:
        raise HTTPException(403, "this needs an admin key")
