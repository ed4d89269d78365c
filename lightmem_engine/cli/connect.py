"""The memory a command works on: a running server's, or the directory itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import default_data_dir

if TYPE_CHECKING:
    from lightmem_engine.memory import Memory

SOCKET_NAME = "engine.sock"


def directory_of(config: EngineConfig) -> Path:
    """The data directory."""
    return Path(config.data_dir or default_data_dir()).expanduser()


def open_memory(config: EngineConfig, tenant: str) -> Memory:
    """A client of the server that owns the data directory; without one, its owner.

    Raises `StoreError` if another process that is no server has the directory, or a server that is still starting.
    """
    from lightmem_engine.memory import Memory

    path = directory_of(config) / SOCKET_NAME
    return Memory(url=str(path), tenant=tenant) if is_served(path) else Memory(config, tenant=tenant)


def is_served(path: Path) -> bool:
    """Whether somebody listens on this socket."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    # Through the directory the name is short: a socket address holds about 100 characters.
    name = f"/proc/self/fd/{directory}/{path.name}" if Path("/proc/self/fd").exists() else str(path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(name)
    except OSError:
        return False
    finally:
        os.close(directory)
    return True
