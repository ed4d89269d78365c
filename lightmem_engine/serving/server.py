"""Runs the application under uvicorn until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable

import uvicorn

from lightmem_engine.config import ServerConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import ConfigError
from lightmem_engine.serving.app import create_app
from lightmem_engine.serving.owner import owner_socket

GRACE_SECONDS = 10

logger = logging.getLogger(__name__)


def run(open_engine: Callable[[], Awaitable[LocalEngine]], config: ServerConfig) -> int:
    """Serve until a signal says stop; returns the exit code.

    Raises `ConfigError` if the address cannot be used, and what `open_engine` raises.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = _bind(config)
    try:
        asyncio.run(_serve(open_engine, config, listener))
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        listener.close()
    return 0


async def _serve(
    open_engine: Callable[[], Awaitable[LocalEngine]], config: ServerConfig, listener: socket.socket
) -> None:
    engine = await open_engine()
    app = create_app(engine, config.max_body_bytes)
    host, port = listener.getsockname()[:2]
    logger.info("ready on http://%s:%s, model %s", host, port, engine.lm.name)
    options = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    async with owner_socket(app, engine):
        await uvicorn.Server(options).serve(sockets=[listener])


def _bind(config: ServerConfig) -> socket.socket:
    """Bind before any model loads, so that a taken port, or one open to strangers, fails at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        if not ipaddress.ip_address(address[0]).is_loopback:
            raise ConfigError(
                f"server.host = {config.host} can be reached from other machines, and without API keys everybody there "
                "could read every user's memory; listen on 127.0.0.1 and let an authenticating proxy face the network"
            )
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error}") from error
    return listener
