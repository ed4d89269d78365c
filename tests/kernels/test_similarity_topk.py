"""Nearest neighbours in time and group, against a plain double loop."""

from __future__ import annotations

import random

import pytest
import torch

from lightmem_kernels import Direction, reference, similarity_topk


def brute(
    x: torch.Tensor, order: list[tuple[int, ...]], group: list[int], k: int, direction: str, asked: list[int]
) -> list[list[tuple[float, int]]]:
    """Per query its (score, row) in descending order of score."""
    found = []
    for i in asked:
        rows = []
        for j in range(len(group)):
            if j == i or group[j] != group[i]:
                continue
            if direction == "older" and not order[j] < order[i]:
                continue
            if direction == "newer" and not order[j] > order[i]:
                continue
            rows.append((float(x[i].double() @ x[j].double()), j))
        found.append(sorted(rows, reverse=True)[:k])
    return found


def rows_of(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, 12), dim=1)
    times = torch.randint(0, max(1, n // 3), (n,))  # many share a time, so the place in the log decides
    order = torch.stack([times, torch.randperm(n)], 1)
    return x, order, torch.randint(0, 3, (n,)) * 7 - 3


@pytest.mark.parametrize("direction", ["older", "newer", "any"])
@pytest.mark.parametrize("n", [1, 2, 5, 40, 123])
@pytest.mark.parametrize("block", [1, 1 << 22], ids=["one row a block", "one block"])
def test_equals_the_double_loop(direction: Direction, n: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BLOCK_SCORES", block)
    x, order, group = rows_of(n, seed=n)
    keys = [tuple(row) for row in order.tolist()]
    random.seed(n)
    asked = random.sample(range(n), k=(n + 1) // 2)
    for queries in (None, torch.tensor(asked)):
        scores, rows = similarity_topk(x, order, group, 4, direction=direction, queries=queries)
        wanted = brute(x, keys, group.tolist(), 4, direction, asked if queries is not None else list(range(n)))
        assert scores.shape == rows.shape == (len(wanted), 4)
        for i, expected in enumerate(wanted):
            assert rows[i, : len(expected)].tolist() == [row for _, row in expected]
            torch.testing.assert_close(
                scores[i, : len(expected)], torch.tensor([s for s, _ in expected]), atol=1e-5, rtol=0
            )
            assert rows[i, len(expected) :].eq(-1).all()
            assert scores[i, len(expected) :].eq(-torch.inf).all()


def test_order_may_be_one_column() -> None:
    x, _, group = rows_of(9, seed=1)
    order = torch.randperm(9)
    alone = similarity_topk(x, order, group, 2, direction="older")
    column = similarity_topk(x, order.unsqueeze(1), group, 2, direction="older")
    assert torch.equal(alone[1], column[1])


def test_a_query_may_be_asked_twice_and_none_at_all() -> None:
    x, order, group = rows_of(9, seed=2)
    _, rows = similarity_topk(x, order, group, 3, direction="any", queries=torch.tensor([4, 4]))
    assert torch.equal(rows[0], rows[1])
    scores, rows = similarity_topk(x, order, group, 3, direction="any", queries=torch.tensor([], dtype=torch.long))
    assert scores.shape == rows.shape == (0, 3)


def test_what_does_not_fit_is_refused() -> None:
    x, order, group = rows_of(6, seed=3)
    with pytest.raises(ValueError, match="direction"):
        similarity_topk(x, order, group, 2, direction="before")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        similarity_topk(x, order, group, 0, direction="any")
    with pytest.raises(ValueError, match="total"):
        similarity_topk(x, torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.long), 2, direction="any")
    with pytest.raises(ValueError, match="queries"):
        similarity_topk(x, order, group, 2, direction="any", queries=torch.tensor([6]))
    with pytest.raises(ValueError, match="group"):
        similarity_topk(x, order, group[:3], 2, direction="any")
