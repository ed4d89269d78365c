"""Runs the application under uvicorn until it is told to stop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable

import uvicorn

from lightmem_engine.config import ServerConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import ConfigError
from lightmem_engine.serving.app import create_app

GRACE_SECONDS = 10


def run(open_engine: Callable[[], Awaitable[LocalEngine]], config: ServerConfig) -> int:
    """Serve; returns the exit code. Raises `ConfigError` if the address cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = _bind(config)
    app = create_app(open_engine, config.max_body_bytes)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    )
    host, port = listener.getsockname()[:2]
    logging.getLogger(__name__).info("listening on http://%s:%s", host, port)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _bind(config: ServerConfig) -> socket.socket:
    """Bind before any model loads, so that a taken port fails at once."""
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error}") from error
    return listener
