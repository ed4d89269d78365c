"""Sharing a GPU."""

from __future__ import annotations

import argparse

import pytest

from lightmem_engine.errors import ConfigError
from lightmem_engine.vllm_plugin.gpu import gpu_bytes, remaining_share
from lightmem_engine.vllm_plugin.launcher import make_room


def test_what_the_memory_holds_comes_off_vllms_share() -> None:
    assert remaining_share(0.9, 14 * 2**30, 140 * 2**30) == pytest.approx(0.8)
    assert remaining_share(0.05, 14 * 2**30, 140 * 2**30) == 0.0
    assert remaining_share(0.9, 0, 0) == 0.9


def test_a_process_without_cuda_holds_nothing() -> None:
    assert gpu_bytes() == (0, 0)


def test_a_gpu_that_the_memory_fills_is_refused_and_one_that_it_shares_is_not() -> None:
    args = argparse.Namespace(gpu_memory_utilization=0.9)
    make_room(args, 0, 0)
    assert args.gpu_memory_utilization == 0.9
    make_room(args, 7 * 2**30, 140 * 2**30)
    assert args.gpu_memory_utilization == pytest.approx(0.85)
    with pytest.raises(ConfigError, match=r"device\.kind=cpu"):
        make_room(args, 120 * 2**30, 140 * 2**30)
