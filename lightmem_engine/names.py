"""What users, tenants and sessions may be called."""

from __future__ import annotations

from lightmem_engine.errors import InvalidInput
from lightmem_engine.types import Scope

MAX_NAME = 256


def check_scope(scope: Scope) -> None:
    """A scope that may be stored, or `InvalidInput`."""
    check_name("user_id", scope.user)
    check_name("tenant", scope.tenant)


def check_name(what: str, name: object) -> str:
    """An identifier: 1 to 256 characters, none of them a control character."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"{what} must be a non-empty string")
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(f"{what} must be at most {MAX_NAME} printable characters")
    return name
