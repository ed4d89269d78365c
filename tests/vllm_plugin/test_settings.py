"""What API server processes are told, and whom they know."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lightmem_engine.errors import ConfigError
from lightmem_engine.serving.keys import Caller
from lightmem_engine.vllm_plugin.settings import INTERNAL, Callers, PluginSettings, received
from tests.vllm_plugin.conftest import keys_file


def test_settings_travel_by_the_environment() -> None:
    environment: dict[str, str] = {}
    settings = PluginSettings("/d/engine.sock", "secret", "header", "/keys.toml", ("ab", "cd"), True)
    settings.publish(environment)
    assert received(environment) == settings


def test_without_a_launcher_the_plugin_says_how_to_start() -> None:
    with pytest.raises(ConfigError, match="lightmem-engine serve"):
        received({})


def test_without_keys_everybody_is_an_admin_but_the_token_alone_is_internal() -> None:
    callers = Callers(PluginSettings("", "secret"))
    assert callers.find(b"") == Caller()
    assert callers.find(b"Bearer whatever") == Caller()
    assert callers.find(b"Bearer secret") == INTERNAL
    assert callers.find(b"Basic secret") == Caller()


def test_keys_open_their_tenants_and_nothing_else_opens_any(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"vllms-own").hexdigest()
    callers = Callers(PluginSettings("", "secret", keys=str(keys_file(tmp_path)), api_keys=(digest,)))
    assert callers.find(b"Bearer red-key") == Caller("red", admin=True)
    assert callers.find(b"bearer blue-key") == Caller("blue", admin=False)
    assert callers.find(b"Bearer vllms-own") == Caller()
    assert callers.find(b"Bearer secret") == INTERNAL
    for stranger in (b"", b"Bearer", b"Bearer ", b"Bearer made-up", b"Basic red-key", b"Bearer \xff\xfe"):
        assert callers.find(stranger) is None


def test_a_key_of_vllms_alone_closes_the_rest() -> None:
    callers = Callers(PluginSettings("", "secret", api_keys=(hashlib.sha256(b"one").hexdigest(),)))
    assert callers.find(b"Bearer one") == Caller()
    assert callers.find(b"") is None
