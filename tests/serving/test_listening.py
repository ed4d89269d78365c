"""Where the server listens: what cannot or must not be bound fails at once, with the reason."""

from __future__ import annotations

import socket

import pytest

from lightmem_engine.config import EngineConfig, ServerConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import ConfigError
from lightmem_engine.serving.server import _bind, run


async def _never() -> LocalEngine:
    pytest.fail("no model may load for an address that cannot be used")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_strangers_are_kept_out(host: str) -> None:
    with pytest.raises(ConfigError, match=r"API keys|cannot listen"):
        run(_never, EngineConfig(server=ServerConfig(host=host, port=0)))


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            run(_never, EngineConfig(server=ServerConfig(port=port)))


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(ConfigError, match="no-such-host"):
        run(_never, EngineConfig(server=ServerConfig(host="no-such-host.invalid")))


def test_small_answers_do_not_wait_for_each_other() -> None:
    """asyncio turns Nagle's algorithm off only on sockets that name their protocol."""
    with _bind(ServerConfig(port=0), has_keys=False) as listener:
        assert listener.proto == socket.IPPROTO_TCP
