"""LightMem Engine: long-term memory inside the inference stack.

    from lightmem_engine import Memory

    with Memory() as memory:
        memory.add({"role": "user", "content": "My sister lives in Lisbon."}, user_id="ann")
        print(memory.search("Where does my sister live?", user_id="ann"))

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightmem_engine.config import EngineConfig
    from lightmem_engine.errors import (
        BackendUnavailable,
        ConfigError,
        Conflict,
        ContextTooLong,
        CorruptStore,
        EngineDown,
        InvalidInput,
        LightMemError,
        ModelError,
        NotFound,
        Overloaded,
        StoreError,
    )
    from lightmem_engine.memory import AsyncMemory, Memory
    from lightmem_engine.types import Hit, MemoryEntry, Message

__all__ = [
    "AsyncMemory",
    "BackendUnavailable",
    "ConfigError",
    "Conflict",
    "ContextTooLong",
    "CorruptStore",
    "EngineConfig",
    "EngineDown",
    "Hit",
    "InvalidInput",
    "LightMemError",
    "Memory",
    "MemoryEntry",
    "Message",
    "ModelError",
    "NotFound",
    "Overloaded",
    "StoreError",
]

_HOMES = {
    "AsyncMemory": "memory",
    "EngineConfig": "config",
    "Hit": "types",
    "Memory": "memory",
    "MemoryEntry": "types",
    "Message": "types",
}


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is to import."""
    return sorted({*globals(), *__all__})
