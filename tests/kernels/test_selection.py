"""The choice of words off the CPU, against numpy's to the bit: in plain torch, interpreted, and its machine code."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from lightmem_engine.models.lingua_device import place
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_kernels import keep_words
from tests.kernels.selection_cases import chunk, disagreements
from tests.kernels.test_triton_attention import rows

SHARED_MEMORY = 232_448  # bytes a block can have on sm_90


@pytest.mark.parametrize("token_to_word", ["mean", "first"])
def test_plain_torch_chooses_as_numpy_does(token_to_word: Any) -> None:
    options = LinguaOptions(token_to_word=token_to_word)
    for seed in range(25):
        rng = random.Random(seed)
        cases = [chunk(rng, 60) for _ in range(40)]
        assert disagreements(cases, options, "cpu", keep_words) == [], seed


def test_the_place_of_a_percentile_is_numpys() -> None:
    numbers = np.random.default_rng(5)
    for _ in range(4000):
        count, q = int(numbers.integers(1, 600)), int(numbers.integers(0, 101))
        is_double = bool(numbers.integers(2))
        kind: Any = np.float64 if is_double else np.float32
        values = np.sort(numbers.random(count)).astype(np.float32).astype(kind)
        found = place(count, q, is_double=is_double)
        low, high = values[found.rank], values[min(found.rank + 1, count - 1)]
        step = (high - low) * kind(found.fraction)
        assert (high - step if found.from_above else low + step) == np.percentile(values, q), (count, q, is_double)


def test_the_interpreted_kernel_chooses_as_numpy_does() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    (found,) = rows("tests.kernels.interpreted_selection", TRITON_INTERPRET="1")
    assert found["chunks"] >= 200
    assert found["wrong"] == []


def test_the_compiled_kernel_rounds_twice_and_spills_nothing() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    *built, fused = rows("tests.kernels.compiled_selection")
    assert len(built) == 2
    for row in built:
        assert row["LDL"] == row["STL"] == 0, row
        assert row["fma"] == row["DFMA"] == 0, row
        assert row["shared"] <= SHARED_MEMORY, row
    assert fused["fma"] > 0, "the count would not see what it is there to see"
    assert fused["DFMA"] > 0


def arguments(**changed: Any) -> dict[str, Any]:
    """Two chunks: words of probability .25, .5 and .75, and one of .5; the middle rank."""
    plain = {
        "probabilities": torch.tensor([0.25, 0.5, 0.75]),
        "places": torch.tensor([0, 1, 2, 1]),
        "starts": torch.tensor([0, 1, 2, 3]),
        "lengths": torch.ones(4, dtype=torch.long),
        "weights": torch.ones(4, dtype=torch.long),
        "bounds": torch.tensor([0, 3, 4]),
        "ranks": torch.tensor([1, 0]),
        "fractions": torch.zeros(2, dtype=torch.float64),
        "from_above": torch.zeros(2, dtype=torch.bool),
        "is_double": torch.zeros(2, dtype=torch.bool),
    }
    return plain | changed


def test_a_word_must_be_above_the_threshold_or_certain() -> None:
    assert keep_words(**arguments()).tolist() == [False, False, True, False]
    certain = keep_words(**arguments(places=torch.tensor([0, -1, -1, -1])))
    assert certain.tolist() == [False, True, True, True]
    assert keep_words(**arguments(weights=torch.tensor([5, 1, 1, 1]))).tolist() == [False, True, True, False]


def test_nothing_stays_where_a_value_is_no_number() -> None:
    broken = torch.tensor([float("nan"), 0.5, 0.75])
    assert keep_words(**arguments(probabilities=broken)).tolist() == [False] * 4
    other = torch.tensor([0, 1, 2, -1])
    assert keep_words(**arguments(probabilities=broken, places=other)).tolist() == [False, False, False, True]


def test_no_chunks_and_no_words_are_nothing() -> None:
    none = torch.zeros(0, dtype=torch.long)
    empty = dict.fromkeys(("places", "starts", "lengths", "weights", "ranks"), none)
    flags = dict.fromkeys(("from_above", "is_double"), none.bool())
    found = keep_words(**arguments(**empty, **flags, bounds=torch.tensor([0]), fractions=none.double()))
    assert found.tolist() == []


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"probabilities": torch.ones(3, dtype=torch.float64)}, "float32"),
        ({"fractions": torch.zeros(2)}, "float64"),
        ({"weights": torch.ones(3, dtype=torch.long)}, "one entry per word"),
        ({"starts": torch.ones(4)}, "list of integers"),
        ({"ranks": torch.zeros(3, dtype=torch.long)}, "one entry more than there are chunks"),
    ],
)
def test_what_does_not_fit_is_refused(changed: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        keep_words(**arguments(**changed))
