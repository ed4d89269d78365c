"""A cache with room: the same tokens as a `DynamicCache`, without moving those that are there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from lightmem_engine.models.prefix_cache import clone, num_bytes
from lightmem_engine.models.roomy_cache import SPARE, roomy_cache


def tokens(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    pair = torch.randn(2, 1, 3, num, 4)
    return pair[0], pair[1]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(0, 200))
def test_it_holds_what_a_dynamic_cache_holds(sizes: list[int], room: int) -> None:
    mine: Any = roomy_cache(2, room)
    theirs = DynamicCache()
    for seed, size in enumerate(sizes):
        for layer in range(2):
            keys, values = tokens(size, seed + 100 * layer)
            found = mine.update(keys, values, layer)
            expected = theirs.update(keys, values, layer)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
        assert mine.get_seq_length() == theirs.get_seq_length()
        assert mine.get_mask_sizes(5, 0) == theirs.get_mask_sizes(5, 0)


def test_tokens_within_the_room_move_nothing() -> None:
    cache = roomy_cache(1, 100)
    cache.update(*tokens(60, 0), 0)
    place = cache.layers[0].keys.data_ptr()
    for _ in range(40 + SPARE):
        cache.update(*tokens(1, 1), 0)
    assert cache.layers[0].keys.data_ptr() == place
    cache.update(*tokens(1, 2), 0)
    assert cache.layers[0].keys.data_ptr() != place
    assert torch.equal(cache.layers[0].keys[:, :, :60], tokens(60, 0)[0])


def test_the_room_counts_as_memory() -> None:
    cache = roomy_cache(1, 100)
    cache.update(*tokens(10, 0), 0)
    assert num_bytes(cache) == 2 * 3 * 4 * 4 * (100 + SPARE)


def test_a_clone_shares_nothing() -> None:
    cache = roomy_cache(1, 10)
    cache.update(*tokens(10, 0), 0)
    copy = clone(cache, 7, 20)
    copy.layers[0].keys.zero_()
    copy.update(*tokens(3, 1), 0)
    assert torch.equal(cache.layers[0].keys, tokens(10, 0)[0])
    assert copy.get_seq_length() == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_has_the_models_dtype(dtype: torch.dtype) -> None:
    cache = roomy_cache(1, 5)
    keys, values = (part.to(dtype) for part in tokens(5, 0))
    assert cache.update(keys, values, 0)[1].dtype is dtype
