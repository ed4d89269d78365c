from typing import Any

import torch
from transformers import DynamicCache

from lightmem_engine.models.prefix_cache import PrefixCache, num_bytes

BYTES_PER_TOKEN = 2 * 2 * 4 * 4  # two layers, keys and values, one head of dimension 4, float32


def cache_of(tokens: list[int]) -> Any:
    cache = DynamicCache()
    rows = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None].expand(1, 1, -1, 4)
    for layer in range(2):
        cache.update(rows.clone(), -rows.clone(), layer)
    return cache


def tokens_in(cache: Any) -> list[int]:
    return [int(value) for value in cache.layers[1].keys[0, 0, :, 0]]


def test_the_longest_common_prefix_is_handed_out_cropped() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2, 3, 4], cache_of([1, 2, 3, 4]))
    store.put([1, 2, 9, 9, 9], cache_of([1, 2, 9, 9, 9]))
    shared, cache = store.match([1, 2, 3, 7, 8])
    assert shared == 3
    assert tokens_in(cache) == [1, 2, 3]
    assert store.match([5, 1, 2])[0] == 0


def test_one_token_is_always_left_to_compute() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2, 3], cache_of([1, 2, 3]))
    assert store.match([1, 2, 3])[0] == 2


def test_what_is_handed_out_may_be_changed() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2, 3], cache_of([1, 2, 3]))
    cache = store.match([1, 2, 3, 4])[1]
    cache.layers[1].keys.zero_()
    cache.update(torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 4), 0)
    assert tokens_in(store.match([1, 2, 3, 4])[1]) == [1, 2, 3]


def test_a_longer_entry_replaces_its_own_prefix() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2], cache_of([1, 2]))
    store.put([1, 2, 3], cache_of([1, 2, 3]))
    store.put([1, 2], cache_of([1, 2]))
    assert len(store) == 1
    assert store.num_bytes == 3 * BYTES_PER_TOKEN


def test_the_least_recently_used_goes_first() -> None:
    store = PrefixCache(6 * BYTES_PER_TOKEN)
    store.put([1, 1, 1], cache_of([1, 1, 1]))
    store.put([2, 2, 2], cache_of([2, 2, 2]))
    store.match([1, 1, 1, 0])
    store.put([3, 3, 3], cache_of([3, 3, 3]))
    assert [store.match([t, t, t, 0])[0] for t in (1, 2, 3)] == [3, 0, 3]
    assert store.num_bytes == 6 * BYTES_PER_TOKEN == 2 * num_bytes(cache_of([1, 1, 1]))


def test_an_entry_beyond_the_budget_is_not_kept() -> None:
    store = PrefixCache(BYTES_PER_TOKEN)
    store.put([1, 2], cache_of([1, 2]))
    assert len(store) == store.num_bytes == 0


def test_clearing_forgets_all() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2, 3], cache_of([1, 2, 3]))
    store.clear()
    assert store.match([1, 2, 3])[0] == store.num_bytes == 0


def test_a_superseded_branch_leaves_with_the_next_of_its_thread() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2, 3], cache_of([1, 2, 3]), "ann", thread=7)
    store.put([1, 5, 5], cache_of([1, 5, 5]), "ann", thread=8)
    store.put([1, 2, 3], cache_of([1, 2, 3]), "bob", thread=9)
    shared, cache = store.match([1, 2, 9, 9], "ann")
    assert (shared, tokens_in(cache)) == (2, [1, 2])
    store.put([1, 2, 9, 9], cache_of([1, 2, 9, 9]), "ann", thread=7)
    assert store.match([1, 2, 3, 4], "ann")[0] == 2, "nothing of the old branch is left"
    assert store.match([1, 5, 5, 6], "ann")[0] == 3
    assert store.match([1, 2, 3, 4], "bob")[0] == 3
    assert store.num_bytes == 10 * BYTES_PER_TOKEN


def test_what_was_asked_behind_a_conversation_goes_with_it() -> None:
    store = PrefixCache(10_000)
    store.put([1, 2, 3], cache_of([1, 2, 3]), "ann", thread=7)
    store.put([1, 2, 3, 4], cache_of([1, 2, 3, 4]), "ann")
    store.put([1, 8], cache_of([1, 8]), "ann", thread=7)
    assert store.match([1, 2, 3, 4, 5], "ann")[0] == 1
    assert len(store) == 1
