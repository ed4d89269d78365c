"""The option tree: what it accepts, what it refuses, what it shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lightmem_engine.config import EngineConfig, LmConfig, replace
from lightmem_engine.config_fields import check
from lightmem_engine.config_loader import options
from lightmem_engine.errors import ConfigError

DEFAULTS = {
    "compress.rate": 0.6,
    "short_term.threshold": 512,
    "short_term.idle_seconds": 60.0,
    "classifier.source": "saliency",
    "extract.mode": "auto",
    "search.index_strategy": "hybrid",
    "segment.mode": "hybrid",
    "server.host": "127.0.0.1",
    "server.port": 8000,
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_promised_defaults(path: str) -> None:
    found = {option.path: option.default for option in options()}
    assert found[path] == DEFAULTS[path]


def test_every_option_is_explained_once_and_immutable() -> None:
    found = list(options())
    assert len({option.path for option in found}) == len(found)
    assert all(option.help.strip() and not option.help.endswith(".") for option in found)
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineConfig().data_dir = "elsewhere"  # type: ignore[misc]


def test_secrets_are_not_in_the_repr() -> None:
    config = replace(EngineConfig(), **{"lm.api_key": "sk-hidden"})
    assert config.lm.api_key == "sk-hidden"
    assert "sk-hidden" not in repr(config)
    assert "sk-hidden" not in repr(LmConfig(api_key="sk-hidden"))


def test_replace_leaves_the_rest_and_the_original_alone() -> None:
    config = EngineConfig(data_dir="here")
    changed = replace(config, **{"compress.rate": 0.3, "data_dir": "there"})
    assert (config.compress.rate, config.data_dir) == (0.6, "here")
    assert (changed.compress.rate, changed.data_dir, changed.server) == (0.3, "there", config.server)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"compress.rate": 0.0}, "compress.rate"),
        ({"compress.rate": 1.01}, "compress.rate"),
        ({"compress.protect": ("adverbs",)}, "adverbs"),
        ({"classifier.source": "llmlingua"}, "classifier.model"),
        ({"classifier.window_tokens": 8}, "classifier.window_tokens"),
        ({"segment.lookahead": 0}, "segment.lookahead"),
        ({"segment.max_tokens": 1}, "segment.max_tokens"),
        ({"lm.backend": "qwen"}, "lm.model"),
        ({"lm.backend": "remote"}, "lm.url"),
        ({"lm.timeout_seconds": 0.0}, "lm.timeout_seconds"),
        ({"short_term.threshold": -1}, "short_term.threshold"),
        ({"short_term.idle_seconds": 0.0}, "short_term.idle_seconds"),
        ({"extract.max_words": 1}, "extract.max_words"),
        ({"extract.max_tokens": 1}, "extract.max_tokens"),
        ({"chat.top_k": -1}, "chat.top_k"),
        ({"memory.timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"memory.timezone": "../etc/passwd"}, "memory.timezone"),
        ({"runtime.max_queued_tokens": 1}, "runtime.max_queued_tokens"),
        ({"runtime.max_attempts": 0}, "runtime.max_attempts"),
        ({"runtime.backoff_seconds": 0.0}, "runtime.backoff_seconds"),
        ({"runtime.cached_users": 0}, "runtime.cached_users"),
        ({"server.port": 70000}, "server.port"),
        ({"server.max_body_bytes": 1}, "server.max_body_bytes"),
        ({"device.threads": -1}, "device.threads"),
    ],
    ids=str,
)
def test_impossible_values_are_refused_by_name(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        replace(EngineConfig(), **changes)


def test_check() -> None:
    check(True, "fine")
    with pytest.raises(ConfigError, match="not fine"):
        check(False, "not fine")
