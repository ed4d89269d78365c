"""Exact vectors of one user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.stores.vectors import VectorIndex

DIM = 8


def unit(seed: int) -> npt.NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    vector /= np.linalg.norm(vector)
    vector.flags.writeable = False  # as it comes out of a database
    return vector


def filled(count: int, device: str = "cpu") -> VectorIndex:
    index = VectorIndex(DIM, device)
    for slot in range(count):
        index.put(slot, unit(slot))
    return index


def devices() -> list[str]:
    """FAISS, torch's code on the CPU (an indexed device is torch's), and CUDA where there is one."""
    import torch

    return ["cpu", "cpu:0", "cuda:0"] if torch.cuda.is_available() else ["cpu", "cpu:0"]


def test_scores_are_inner_products_and_nan_without_a_vector() -> None:
    index = VectorIndex(DIM)
    index.put(0, unit(0))
    index.put(3, unit(3))
    scores = index.scores(unit(9), 5)
    assert np.isnan(scores[[1, 2, 4]]).all()
    np.testing.assert_allclose(scores[[0, 3]], [unit(0) @ unit(9), unit(3) @ unit(9)], rtol=1e-5)


@pytest.mark.parametrize("device", devices())
def test_search_equals_sorting_all_scores(device: str) -> None:
    index = filled(40, device)
    index.remove(7)
    index.put(8, unit(800))
    mask = np.arange(40) % 3 != 0
    scores = index.scores(unit(99), 40)
    expected = [slot for slot in np.argsort(-scores) if mask[slot] and not np.isnan(scores[slot])][:10]
    values, slots = index.search(unit(99), 10, mask)
    assert slots.tolist() == expected
    np.testing.assert_allclose(values, scores[expected], rtol=1e-5)


def test_search_returns_fewer_if_there_are_fewer() -> None:
    index = filled(3)
    assert len(index.search(unit(0), 10)[1]) == 3
    assert len(index.search(unit(0), 10, np.array([False, True, False]))[1]) == 1
    assert len(index.search(unit(0), 10, np.zeros(3, np.bool_))[1]) == 0
    assert len(VectorIndex(DIM).search(unit(0), 10)[1]) == 0


@pytest.mark.parametrize("device", devices())
def test_compaction_keeps_what_lives(device: str) -> None:
    index = filled(10, device)
    for slot in (0, 4, 9):
        index.remove(slot)
    index.put(5, unit(55))
    assert index.num_dead == 4
    before = index.scores(unit(1), 10)
    kept = [1, 2, 3, 5, 6, 7, 8]
    new_slot = np.full(10, -1, np.int32)
    new_slot[kept] = range(7)
    index.compact(new_slot)
    index.check()
    assert index.num_dead == 0
    np.testing.assert_allclose(index.scores(unit(1), 7), before[kept], rtol=1e-6)


def test_wrong_dimensions_are_refused() -> None:
    index = VectorIndex(DIM)
    with pytest.raises(InvalidInput, match="dimension 8"):
        index.put(0, np.ones(3, np.float32))
    with pytest.raises(InvalidInput, match="dimension 8"):
        index.scores(np.ones(3, np.float32), 1)
