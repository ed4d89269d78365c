"""Memory keeps vLLM's prefix cache over a long conversation."""

from __future__ import annotations

import pytest

from bench.bench_prefix import Found, Turn, measure
from tests.support.vllm_server import VllmServer


def test_the_conversations_own_tokens_stay_cached_while_memory_grows(vllm: VllmServer) -> None:
    found = measure(vllm.url, "red-key", "prefix", 20)
    assert sum(turn.cached for turn in found.off) > 0.6 * sum(turn.prompt for turn in found.off)
    assert sum(turn.prompt for turn in found.on) > sum(turn.prompt for turn in found.off)  # there was memory
    assert found.share >= 0.95, found


def test_the_share_takes_off_what_memory_may_hold_of_the_cache() -> None:
    off = [Turn(100, 0), Turn(200, 96), Turn(300, 192)]
    assert Found(off, off).share == 1.0
    on = [Turn(150, 0), Turn(250, 128), Turn(350, 224)]
    assert Found(on, off).share == pytest.approx((78 + 174) / 288)
