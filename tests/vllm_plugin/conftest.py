"""One vLLM with memory for all tests of the plugin: two API servers, keys of two tenants, the packaged model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vllm_server import DETAILS, FAST, HAS_VLLM, NO_VLLM, TOOLS, VllmServer

KEYS = """
[[keys]]
key = "red-key"
tenant = "red"
admin = true

[[keys]]
key = "blue-key"
tenant = "blue"
"""


def keys_file(directory: Path) -> Path:
    """Keys of tenant red, whose holder is an admin, and of tenant blue."""
    path = directory / "keys.toml"
    path.write_text(KEYS, "utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    if not HAS_VLLM:
        pytest.skip(NO_VLLM)
    directory = tmp_path_factory.mktemp("vllm")
    # In float32, so that what it says of its probabilities can be held against another's.
    shared = ("--api-server-count", "2", "--enable-log-requests", "--dtype", "float32", *FAST, *TOOLS, *DETAILS)
    arguments = (*shared, "--keys", str(keys_file(directory)))
    with VllmServer(directory, *arguments) as server:
        yield server
