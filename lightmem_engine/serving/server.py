"""Runs the application under uvicorn until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Awaitable, Callable

import uvicorn

from lightmem_engine.config import EngineConfig, ServerConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import ConfigError
from lightmem_engine.serving import logs
from lightmem_engine.serving.app import chat_target, create_app
from lightmem_engine.serving.connection import patient_protocol
from lightmem_engine.serving.keys import KeyRing
from lightmem_engine.serving.owner import owner_socket

GRACE_SECONDS = 10

logger = logging.getLogger(__name__)


def run(open_engine: Callable[[], Awaitable[LocalEngine]], config: EngineConfig) -> int:
    """Serve until a signal says stop; returns the exit code.

    Raises `ConfigError` if the address or the keys cannot be used, and what `open_engine` raises.
    """
    logs.set_up(config.server.log_format)
    keys = KeyRing(config.identity.keys)
    listener = _bind(config.server, has_keys=keys.required)
    try:
        asyncio.run(_serve(open_engine, config, keys, listener))
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        listener.close()
    return 0


async def _serve(
    open_engine: Callable[[], Awaitable[LocalEngine]], config: EngineConfig, keys: KeyRing, listener: socket.socket
) -> None:
    if keys.required:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, keys)
    engine = await open_engine()
    app = create_app(engine, config, keys)
    host, port = listener.getsockname()[:2]
    target = chat_target(config)
    logger.info("ready on http://%s:%s, %s", host, port, f"in front of {target.url}" if target else engine.lm.name)
    options = uvicorn.Config(
        app,
        http=patient_protocol(config.server.send_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    async with owner_socket(app, engine):
        await uvicorn.Server(options).serve(sockets=[listener])


def _reload(keys: KeyRing) -> None:
    try:
        keys.reload()
    except ConfigError as error:
        logger.error("the keys stay as they were: %s", error)
    else:
        logger.info("keys read again")


def _bind(config: ServerConfig, *, has_keys: bool) -> socket.socket:
    """Bind before any model loads, so that a taken port, or one open to strangers, fails at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        if not has_keys and not ipaddress.ip_address(address[0]).is_loopback:
            raise ConfigError(
                f"server.host = {config.host} can be reached from other machines, and without API keys everybody there "
                "could read every user's memory; name a file of keys (identity.keys) or listen on 127.0.0.1"
            )
        # The protocol is named because asyncio turns Nagle's algorithm off only where it is: 40 ms per small answer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error}") from error
    return listener
