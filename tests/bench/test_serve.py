"""The parts of the vLLM benches that need no vLLM."""

from __future__ import annotations

import os
import time

import pytest

from bench.bench_interference import itl_p99, ratio, ttft_p99
from bench.bench_serve import cpu_seconds
from bench.vllm_load import Arm, Chat


def test_a_ratio_lies_in_its_interval_and_no_difference_is_one() -> None:
    chats = [Chat(0.01 * (1 + number % 7), [0.001 * (1 + number % 5)] * 8) for number in range(200)]
    slower = [Chat(2 * chat.ttft, [3 * step for step in chat.steps]) for chat in chats]
    found, low, high = ratio(ttft_p99, chats, chats)
    assert low <= found == 1.0 <= high
    assert ratio(ttft_p99, slower, chats)[0] == pytest.approx(2.0)
    assert ratio(itl_p99, slower, chats)[0] == pytest.approx(3.0)


def test_arms_are_pooled() -> None:
    arm = Arm([Chat(1.0, [])], seconds=2.0, busy=1.0, background=10)
    arm.add(Arm([Chat(2.0, [0.1])], seconds=3.0, busy=0.5, background=5))
    assert (len(arm.chats), arm.seconds, arm.busy, arm.background) == (2, 5.0, 1.5, 15)


def test_cpu_time_counts_a_process_and_grows() -> None:
    before = cpu_seconds(os.getpid())
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    assert cpu_seconds(os.getpid()) > before
    assert cpu_seconds(2**30) == 0.0
