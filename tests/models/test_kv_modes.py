"""What the model in this process keeps of its caches changes when it turns out not to pay."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.kv.choice import PATIENCE_SECONDS, Choice, NetBenefit
from lightmem_engine.kv.files import ChunkFiles
from lightmem_engine.kv.rates import Rates
from lightmem_engine.models.kv_tier import KVTier
from lightmem_engine.models.qwen import QwenModel
from tests.models import tiny_qwen
from tests.models.keeping import Everything, ask, keeping, settle
from tests.models.test_kept_caches import prompt


class Overrated(Rates):
    """Loads are thought to be quick, whatever they were found to be; each may take as long as computing takes."""

    def pays(self, num_tokens: int, num_bytes: int) -> bool:
        return True

    def compute_seconds(self, num_tokens: int) -> float:
        return 0.001


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[QwenModel]:
    model = QwenModel.load(str(tiny_qwen.save(tmp_path / "model")), cache_bytes=0)
    yield model
    await model.aclose()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No read ends before its time is over."""
    read = ChunkFiles._read_into

    def late(self: ChunkFiles, handle: int, view: memoryview) -> int:
        threading.Event().wait(0.02)
        return read(self, handle, view)

    monkeypatch.setattr(ChunkFiles, "_read_into", late)


async def lose_for_ten_minutes(model: QwenModel, tier: KVTier) -> None:
    """Two loads that take longer than computing, as far apart."""
    now = [0.0]
    tier.benefit = NetBenefit(lambda: now[0])
    for _ in range(2):
        await ask(model, prompt())
        now[0] += PATIENCE_SECONDS


@pytest.mark.parametrize("fallback", ["warm", "off"])
async def test_losing_for_ten_minutes_changes_the_mode(
    fallback: Any, model: QwenModel, tmp_path: Path, slow_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    rates = Overrated(tokens=1.0, bytes=1e12)
    async with keeping(model, tmp_path / "kv", rates=rates, fallback=Choice(fallback, "")) as (tier, binder):
        await ask(model, prompt())
        await settle(model, tier)
        stored = len(binder.bound)
        assert binder.sizes[-1] > 0
        with caplog.at_level(logging.WARNING, "lightmem_engine.models.kv_tier"):
            await lose_for_ten_minutes(model, tier)
        (record,) = caplog.records
        assert f"kv.mode is {fallback} from now on" in record.getMessage()
        shown = tier.describe()
        assert shown["mode"] == fallback
        assert "more than they saved" in shown["reason"]
        assert shown["costs_more_than_it_saves"] is True
        counters = tier.store.counters
        read = counters.get("bytes_read")
        assert counters.get("waited_seconds") > counters.get("saved_seconds")

        answer = await ask(model, prompt({"role": "assistant", "content": "Boston."}, {"role": "user", "content": "?"}))
        await settle(model, tier)
        assert answer.usage.cached_tokens == 0
        assert counters.get("bytes_read") == read, "no load is tried any more"
        if fallback == "warm":
            assert binder.sizes[stored:] != []
            assert binder.sizes[-1] == 0, "token ids alone"
        else:
            assert tier.store.counters.get("stores_skipped", "off") >= 1


async def test_a_mode_that_was_asked_for_stays_and_the_loss_is_said(
    model: QwenModel, tmp_path: Path, slow_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(model, tmp_path / "kv", rates=Overrated(tokens=1.0, bytes=1e12)) as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        with caplog.at_level(logging.WARNING, "lightmem_engine.models.kv_tier"):
            await lose_for_ten_minutes(model, tier)
            assert len(caplog.records) == 1
            await ask(model, prompt())
        assert len(caplog.records) == 1, "once"
        shown = tier.describe()
        assert (shown["mode"], shown["costs_more_than_it_saves"]) == ("persist", True)


async def test_gains_change_nothing(model: QwenModel, tmp_path: Path) -> None:
    async with keeping(model, tmp_path / "kv", fallback=Choice("warm", "")) as (tier, binder):
        assert isinstance(binder, Everything)
        await ask(model, prompt())
        await settle(model, tier)
        now = [0.0]
        tier.benefit = NetBenefit(lambda: now[0])
        for _ in range(3):
            assert (await ask(model, prompt())).usage.cached_tokens > 40
            now[0] += PATIENCE_SECONDS
        assert tier.describe()["mode"] == "persist"
        assert not tier.alert
