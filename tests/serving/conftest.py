"""One server for all tests of the HTTP face."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import STUB_MODELS, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("serving") / "data", STUB_MODELS) as server:
        yield server
