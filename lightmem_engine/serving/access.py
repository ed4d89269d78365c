"""What a request may reach: the engine, and the tenant that its key opens."""

from __future__ import annotations

from fastapi import Request

from lightmem_engine.engine import LocalEngine
from lightmem_engine.types import Scope


def engine_of(request: Request) -> LocalEngine:
    """The engine behind the application."""
    engine: LocalEngine = request.app.state.engine
    return engine


def tenant_of(request: Request) -> str:
    """The tenant whose data the request may touch."""
    return str(getattr(request.state, "tenant", "default"))


def require_admin(request: Request) -> None:
    """Refuse a request whose key is not an admin's."""


def scope_of(request: Request, user: str) -> Scope:
    """A user of the request's tenant."""
    return Scope(user=user, tenant=tenant_of(request))
