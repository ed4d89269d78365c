"""Blocks out of tensors and into them; on a GPU, while it goes on computing."""

from __future__ import annotations

import time

import pytest
import torch

from lightmem_engine.kv.rates import Rates
from lightmem_engine.vllm_plugin.kept import block_copies
from lightmem_engine.vllm_plugin.kept.block_copies import BlockCopies
from lightmem_engine.vllm_plugin.kept.step_times import MEASURED_TOKENS, StepTimes

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=(pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ),
)


@pytest.fixture(params=DEVICES)
def caches(request: pytest.FixtureRequest) -> list[torch.Tensor]:
    torch.manual_seed(0)
    plain = torch.randn(40, 2, 4, 6).to(torch.bfloat16)
    turned = torch.randn(40, 4, 2, 6).transpose(1, 2)  # as backends that keep tokens before heads have it
    small = torch.randn(40, 2, 4, 6).to(torch.float8_e4m3fn)
    return [cache.to(request.param) for cache in (plain, turned, small)]


@pytest.mark.parametrize("blocks", [(5,), (5, 0, 3), tuple(range(39, -1, -1))])
def test_blocks_come_back_to_the_bit_in_other_places(
    caches: list[torch.Tensor], blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_copies, "SLICE_BYTES", 1000)  # a few blocks
    copies = BlockCopies(caches)
    kept = [cache.clone() for cache in caches]
    taken = copies.take(blocks)
    for cache in caches:
        cache.zero_()  # freed and used again, right after it was copied
    rows = [row for part in taken for row in part.rows()]
    assert len(rows) == len(blocks)
    assert {row.nbytes for row in rows} == {copies.block_bytes}
    into = [*blocks[1:], blocks[0]]
    copies.put(into, rows, copies.now())
    for cache, before in zip(caches, kept, strict=True):
        for old, new in zip(blocks, into, strict=True):
            assert torch.equal(cache[new].float(), before[old].float())
        untouched = [block for block in range(40) if block not in blocks]
        assert not cache.float()[untouched].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_busy_gpu_neither_makes_anybody_wait_nor_spoils_what_leaves() -> None:
    """More slices than the ring has slots, behind work that takes longer than giving them away does."""
    caches = [torch.randint(0, 127, (512, 8, 16, 256), dtype=torch.int8, device="cuda") for _ in range(8)]
    copies = BlockCopies(caches)
    truth = torch.stack([cache.cpu() for cache in caches], 1).flatten(1).view(torch.uint8).numpy()
    large = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        for _ in range(20):
            large = torch.nn.functional.normalize(large @ large)
        taken = copies.take(range(512))
        for cache in caches:
            cache.bitwise_not_()
        found = [row for part in taken for row in part.rows()]
        assert all((row == truth[block]).all() for block, row in enumerate(found))
        for cache in caches:
            cache.bitwise_not_()


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_timed_where_they_are_computed(device: str) -> None:
    rates = Rates(1.0, 1.0)
    times = StepTimes(rates, torch.device(device))
    deadline = time.monotonic() + 20
    while rates.shown()[0] <= 1.0:
        times.begin()
        torch.ones(8, device=device).sum()
        times.end(MEASURED_TOKENS)
        assert time.monotonic() < deadline
    seen = rates.shown()[0]
    times.begin()
    times.end(MEASURED_TOKENS - 1)
    times.end(MEASURED_TOKENS)  # nothing began
    assert rates.shown()[0] == seen or device == "cuda"
