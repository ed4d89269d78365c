"""What could not be built leaves nothing open."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lightmem_engine import assemble
from lightmem_engine.async_memory import AsyncMemory
from lightmem_engine.errors import ConfigError
from tests.support.memory import quick_config, user


@pytest.mark.parametrize("place", ["load_lm", "open_kept", "load_watch", "build_pipeline", "budget.automatic"])
async def test_a_failure_on_the_way_gives_the_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*given: object) -> None:
        raise ConfigError("not today")

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(f"lightmem_engine.assemble.{place}", fail)
        with pytest.raises(ConfigError, match="not today"):
            await assemble.build(quick_config(tmp_path))
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if not thread.name.startswith("asyncio_")] == []
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        assert await memory.add(user("Still here."), user_id="ann", wait=True)
