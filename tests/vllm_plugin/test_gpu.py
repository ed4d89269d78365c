"""Sharing a GPU."""

from __future__ import annotations

import pytest

from lightmem_engine.vllm_plugin.gpu import gpu_bytes, remaining_share


def test_what_the_memory_holds_comes_off_vllms_share() -> None:
    assert remaining_share(0.9, 14 * 2**30, 140 * 2**30) == pytest.approx(0.8)
    assert remaining_share(0.05, 14 * 2**30, 140 * 2**30) == 0.0
    assert remaining_share(0.9, 0, 0) == 0.9


def test_a_process_without_cuda_holds_nothing() -> None:
    assert gpu_bytes() == (0, 0)
