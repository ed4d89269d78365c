"""Keys and values in a byte each: how far off they come back, and that nobody takes them for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import StoreError
from lightmem_engine.kv.files import Bytes
from lightmem_engine.models.kv_bytes import Layout, layout_of
from lightmem_engine.models.kv_storage import Exact, Int8, Kind, Storage, _from_fp8, storage_of
from lightmem_engine.models.qwen import QwenModel
from tests.models import tiny_qwen
from tests.models.keeping import CHUNK, ask, count_forward, keeping, settle
from tests.models.test_kept_caches import prompt

LOSSY: tuple[Kind, ...] = ("int8", "fp8")
KINDS: tuple[Kind, ...] = ("exact", *LOSSY)


def cache_of(layout: Layout, num_tokens: int, seed: int = 0, scale: float = 1.0) -> Any:
    """Random keys and values; some channels of the keys are large, as in Qwen2."""
    torch.manual_seed(seed)
    shape = (1, layout.kv_heads, num_tokens, layout.head_dim)
    loud = torch.where(torch.arange(layout.head_dim) % 7 == 3, 40.0, 1.0)

    def layer() -> SimpleNamespace:
        keys, values = torch.randn(shape) * loud * scale, torch.randn(shape) * scale
        return SimpleNamespace(keys=keys.to(layout.dtype), values=values.to(layout.dtype))

    return SimpleNamespace(layers=[layer() for _ in range(layout.layers)])


def there_and_back(storage: Storage, cache: Any, num_tokens: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """What was kept and what comes back, float32 [layers, 2, heads, tokens, dim]."""
    layout = storage.layout
    payload: Bytes = np.empty(storage.size(num_tokens), np.uint8)
    storage.pack(cache, start, payload)
    plain: Bytes = np.empty(num_tokens * layout.token_bytes, np.uint8)
    Exact(layout).pack(cache, start, plain)
    found = storage.unpack(payload)
    assert found.shape == plain.shape
    shape = (layout.layers, 2, layout.kv_heads, num_tokens, layout.head_dim)
    before, after = (torch.from_numpy(one).view(layout.dtype).view(shape).float() for one in (plain, found))
    return before, after


@given(
    num_tokens=st.integers(1, 40),
    heads=st.integers(1, 3),
    dim=st.sampled_from([2, 16, 64]),
    exponent=st.integers(-30, 30),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_number_comes_back_within_half_a_step(
    num_tokens: int, heads: int, dim: int, exponent: int, dtype: torch.dtype
) -> None:
    layout = Layout(2, heads, dim, dtype)
    rounding = torch.finfo(dtype).eps
    cache = cache_of(layout, num_tokens, scale=2.0**exponent)
    before, after = there_and_back(storage_of("int8", layout), cache, num_tokens)
    for kind, along in ((0, -2), (1, -1)):  # keys by channel, values by token
        numbers = before[:, kind]
        span = numbers.amax(along, keepdim=True) - numbers.amin(along, keepdim=True)
        allowed = span * (0.5 / 255 + 1e-5) + rounding * numbers.abs().amax(along, keepdim=True)
        assert bool(((after[:, kind] - numbers).abs() <= allowed).all())
    before, after = there_and_back(storage_of("fp8", layout), cache, num_tokens)
    largest = before.abs().amax((-1, -2), keepdim=True)
    allowed = before.abs() * (2.0**-4 + rounding) + largest / 448 * 2.0**-10  # three bits of fraction; then steps
    assert bool(((after - before).abs() <= allowed).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_cache_is_that_part(kind: Kind) -> None:
    layout = Layout(2, 2, 16, torch.float32)
    before, after = there_and_back(storage_of(kind, layout), cache_of(layout, 40), 8, start=24)
    assert torch.allclose(before, after, rtol=2.0**-4, atol=0.5)
    assert torch.equal(before, after) is (kind == "exact")


def test_numbers_that_are_all_the_same_come_back() -> None:
    layout = Layout(1, 1, 16, torch.float32)
    for number in (0.0, 3.5, -(2.0**-140)):
        layer = SimpleNamespace(keys=torch.full((1, 1, 5, 16), number), values=torch.full((1, 1, 5, 16), number))
        for kind in LOSSY:
            before, after = there_and_back(storage_of(kind, layout), SimpleNamespace(layers=[layer]), 5)
            assert torch.allclose(before, after, rtol=1e-6, atol=2.0**-120), (kind, number)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(kind: Kind, bad: float) -> None:
    layout = Layout(1, 1, 16, torch.float32)
    cache = cache_of(layout, 5)
    cache.layers[0].values[0, 0, 3, 3] = bad
    with pytest.raises(StoreError, match=r"only kv\.storage = exact"):
        there_and_back(storage_of(kind, layout), cache, 5)


def test_every_code_of_fp8_is_read_as_torch_reads_it() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # NaN
    assert torch.equal(_from_fp8(codes), codes.view(torch.float8_e4m3fn).float())


def test_a_byte_for_each_number_takes_about_half_of_bfloat16() -> None:
    layout = Layout(28, 8, 128, torch.bfloat16)  # of Qwen3-0.6B
    sizes = {kind: storage_of(kind, layout).size(256) / (256 * layout.token_bytes) for kind in KINDS}
    assert sizes["exact"] == 1
    assert sizes["int8"] == pytest.approx(0.5234, abs=1e-3)
    assert sizes["fp8"] == pytest.approx(0.5001, abs=1e-3)
    assert all(storage_of(kind, layout).size(16) < 16 * layout.token_bytes for kind in LOSSY), "short chunks, too"


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[QwenModel]:
    model = QwenModel.load(str(tiny_qwen.save(tmp_path / "model")), cache_bytes=0)
    yield model
    await model.aclose()


@pytest.mark.parametrize("kind", LOSSY)
async def test_after_a_restart_only_the_rest_is_computed(kind: Kind, model: QwenModel, tmp_path: Path) -> None:
    async with keeping(model, tmp_path / "kv", kind=kind) as (tier, binder):
        await ask(model, prompt())
        await settle(model, tier)
        (offer,) = binder.bound
        plain = len(offer.tokens) * layout_of(model._model).token_bytes
        assert tier.store.counters.get("bytes_written") < 0.5 * plain, "of float32"
    again = QwenModel.load(str(tmp_path / "model"), cache_bytes=0)
    async with keeping(again, tmp_path / "kv", kind=kind):
        counts = count_forward(again)
        answer = await ask(again, prompt())
        assert answer.usage.cached_tokens == len(offer.tokens)
        assert counts[0] == answer.usage.prompt_tokens - len(offer.tokens)
    await again.aclose()


@pytest.mark.parametrize("first", KINDS)
async def test_caches_of_one_kind_are_never_found_by_another(first: Kind, model: QwenModel, tmp_path: Path) -> None:
    expected = (await ask(model, prompt())).text
    async with keeping(model, tmp_path / "kv", kind=first):
        assert (await ask(model, prompt())).text == expected, "what it has computed itself is exact"
    for kind in KINDS:
        if kind == first:
            continue
        async with keeping(model, tmp_path / "kv", kind=kind) as (tier, _):
            ready = tier.store.index.counts()["ready"]
            assert ready > 0
            assert tier.store.counters.get("fingerprint_mismatches") >= ready / 2
            answer = await ask(model, prompt())
            assert answer.usage.cached_tokens == 0
            assert answer.text == expected
    async with keeping(model, tmp_path / "kv", kind=first):
        assert (await ask(model, prompt())).usage.cached_tokens > 40, "they have not displaced each other either"


async def test_numbers_that_cannot_be_kept_fail_no_request(
    model: QwenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Int8, cache: Any, start: int, payload: Bytes) -> None:
        raise StoreError("no numbers")

    monkeypatch.setattr(Int8, "pack", refuse)
    async with keeping(model, tmp_path / "kv", kind="int8") as (tier, binder):
        await ask(model, prompt())
        await settle(model, tier)
        assert binder.bound == []
        assert tier.store.counters.get("errors", "StoreError") == 1
        assert tier.store.index.used() == 0
        monkeypatch.undo()
        await ask(model, prompt())
        await settle(model, tier)
        assert len(binder.bound) == 1, "the writer goes on"


@pytest.mark.parametrize(("kind", "allowed"), [("int8", 0.02), ("fp8", 0.08)])
async def test_errors_do_not_pile_up_over_turns(kind: Kind, allowed: float, tmp_path: Path) -> None:
    """A chunk that a conversation grows in is packed again each time, from what was unpacked before."""
    layout = Layout(2, 2, 64, torch.bfloat16)
    storage = storage_of(kind, layout)
    truth = cache_of(layout, CHUNK)
    cache = cache_of(layout, CHUNK)
    for size in range(2, CHUNK + 1, 2):
        _, after = there_and_back(storage, cache, size)
        for index, layer in enumerate(cache.layers):
            layer.keys[0, :, :size] = after[index, 0].to(layout.dtype)
            layer.values[0, :, :size] = after[index, 1].to(layout.dtype)
    for mine, theirs in zip(cache.layers, truth.layers, strict=True):
        for name in ("keys", "values"):
            found, wanted = getattr(mine, name).float(), getattr(theirs, name).float()
            assert float((found - wanted).norm() / wanted.norm()) < allowed


async def test_calibration_counts_unpacking(model: QwenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = Int8.unpack

    def counted(self: Int8, payload: Bytes) -> Bytes:
        calls.append(len(payload))
        return real(self, payload)

    monkeypatch.setattr(Int8, "unpack", counted)
    async with keeping(model, tmp_path / "kv", kind="int8") as (tier, _):
        assert len(calls) == 4, "once to warm up, and the best of three"
        assert await asyncio.to_thread(tier.store.counters.get, "lookups") == 0
