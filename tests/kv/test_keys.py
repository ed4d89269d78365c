from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.kv import keys
from tests.support.process import python

ids = st.lists(st.integers(0, 151_935), max_size=70)


@given(tokens=ids, size=st.integers(1, 20))
def test_chunks_cover_the_tokens_in_order(tokens: list[int], size: int) -> None:
    spans = keys.spans(b"root", keys.as_tokens(tokens), size)
    assert [token for span in spans for token in span.tokens.tolist()] == tokens
    assert [span.start for span in spans] == list(range(0, len(tokens), size))
    assert all(len(span.tokens) == size for span in spans[:-1])
    assert [span.parent for span in spans] == [b"root", *(span.key for span in spans)][: len(spans)]


@given(a=ids, b=ids)
def test_equal_keys_mean_equal_prefixes(a: list[int], b: list[int]) -> None:
    for one, other in zip(keys.spans(b"r", keys.as_tokens(a), 8), keys.spans(b"r", keys.as_tokens(b), 8), strict=False):
        end = one.start + 8
        assert (one.key == other.key) == (a[:end] == b[:end])


def test_another_salt_or_another_model_shares_no_key() -> None:
    tokens = keys.as_tokens(range(40))
    models = [keys.fingerprint({"weights": name}) for name in "ab"]
    found = [
        span.key
        for model in models
        for salt in ("ann", "bob")
        for span in keys.spans(keys.root(salt, model), tokens, 8)
    ]
    assert len(set(found)) == len(found) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "b"},
        {"dtype": "bfloat16"},
        {"rope": {"rope_theta": 5}},
        {"layers": 3},
        {"attention": "eager"},
        {"lora": "x"},
        {"tensor_parallel": 2},
        {"format": 2},
    ],
)
def test_whatever_changes_kv_changes_the_fingerprint(change: dict[str, object]) -> None:
    facts = {"weights": "a", "dtype": "float32", "rope": {"rope_theta": 1}, "layers": 2, "attention": "sdpa"}
    assert keys.fingerprint(facts | change) != keys.fingerprint(facts)
    assert keys.fingerprint(dict(reversed(facts.items()))) == keys.fingerprint(facts)


def test_keys_are_the_same_in_a_process_with_another_hash_seed() -> None:
    code = (
        "from lightmem_engine.kv import keys;"
        "r = keys.root('ann', keys.fingerprint({'b': 1, 'a': [2]}));"
        "print([s.key.hex() for s in keys.spans(r, keys.as_tokens(range(20)), 8)])"
    )
    found = {python("-c", code, env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(found) == 1
    assert len(found.pop()) > 200


def test_token_ids_beyond_32_bits_are_refused() -> None:
    with pytest.raises(OverflowError):
        keys.as_tokens([1 << 40])
    assert keys.as_tokens([1, 2]).dtype == np.uint32
