"""The reduction against an independent, dense, double-precision transcription of its definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import lightmem_kernels
from lightmem_kernels import Mode, reference, segment_attention


def dense(
    q: torch.Tensor, k: torch.Tensor, seg_q: list[int], seg_k: list[int], causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence, head by head and token by token: (rectangles [n, n], received [keys])."""
    num_queries, num_heads, dim = q.shape
    num_keys, num_kv, _ = k.shape
    n = max([*seg_q, *seg_k, 0]) + 1
    rectangles = torch.zeros(n, n, dtype=torch.float64)
    received = torch.zeros(num_keys, dtype=torch.float64)
    for head in range(num_heads):
        kv = head * num_kv // num_heads
        for i in range(num_queries):
            seen = num_keys - num_queries + i + 1 if causal else num_keys
            logits = [float(q[i, head].double() @ k[j, kv].double()) / math.sqrt(dim) for j in range(seen)]
            top = max(logits, default=0.0)
            total = sum(math.exp(x - top) for x in logits)
            for j, x in enumerate(logits):
                p = math.exp(x - top) / total
                if seg_q[i] >= 0 and seg_k[j] >= 0:
                    received[j] += p
                    rectangles[seg_q[i], seg_k[j]] += p
    return rectangles, received


def packed(
    lengths: list[tuple[int, int]], heads: tuple[int, int], dim: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random packed sequences of (queries, keys), with ascending segments and some tokens left out."""
    torch.manual_seed(seed)
    num_q, num_k = sum(a for a, _ in lengths), sum(b for _, b in lengths)
    q = torch.randn(num_q, heads[0], dim).to(dtype)
    k = torch.randn(num_k, heads[1], dim).to(dtype)
    seg_q, seg_k = [], []
    for a, b in lengths:
        segments = torch.arange(b) * 4 // max(1, b)
        segments[torch.rand(b) < 0.2] = -1
        seg_k.append(segments)
        seg_q.append(segments[b - a :])
    cu_q = torch.tensor([0, *itertools.accumulate(a for a, _ in lengths)])
    cu_k = torch.tensor([0, *itertools.accumulate(b for _, b in lengths)])
    return q, k, torch.cat(seg_q), torch.cat(seg_k), cu_q, cu_k


CASES = [
    pytest.param([(5, 5)], (2, 2), 8, False, id="one sequence"),
    pytest.param([(1, 1), (7, 7), (0, 0), (13, 13)], (3, 3), 5, False, id="ragged, empty and one token"),
    pytest.param([(1, 1), (6, 6), (17, 17)], (4, 2), 8, True, id="grouped heads, causal"),
    pytest.param([(3, 9), (0, 4), (1, 12)], (6, 2), 16, True, id="cached prefix"),
    pytest.param([(3, 9), (2, 2)], (4, 1), 16, False, id="fewer queries than keys"),
]


@pytest.mark.parametrize(("lengths", "heads", "dim", "causal"), CASES)
@pytest.mark.parametrize("block", [1, 1 << 22], ids=["one row a block", "one block"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_dense_definition(
    lengths: list[tuple[int, int]],
    heads: tuple[int, int],
    dim: int,
    causal: bool,
    block: int,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference, "BLOCK_SCORES", block)
    q, k, seg_q, seg_k, cu_q, cu_k = packed(lengths, heads, dim, seed)
    results = {
        mode: segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=causal, mode=mode)
        for mode in ("matrix", "adjacent", "received")
    }
    for b in range(len(lengths)):
        rows, columns = slice(int(cu_q[b]), int(cu_q[b + 1])), slice(int(cu_k[b]), int(cu_k[b + 1]))
        whole, received = dense(q[rows], k[columns], seg_q[rows].tolist(), seg_k[columns].tolist(), causal)
        n = whole.shape[0]
        lower = whole.tril(-1)
        torch.testing.assert_close(results["matrix"][b, :n, :n].double(), lower, atol=2e-6, rtol=1e-5)
        assert not results["matrix"][b, n:].any()
        torch.testing.assert_close(results["adjacent"][b, :n, 1].double(), lower.sum(1), atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(results["adjacent"][b, 1:n, 0].double(), lower.diagonal(-1), atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(results["adjacent"][b, :n, 2].double(), whole.diagonal(), atol=2e-6, rtol=1e-5)
        assert not results["adjacent"][b, :1, 0].any()
        torch.testing.assert_close(results["received"][columns].double(), received, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_given_lse_changes_nothing(causal: bool) -> None:
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(6, 6), (11, 11)], (2, 2), 8, seed=3)
    lse = torch.empty(2, len(q))
    for b in range(2):
        part = slice(int(cu_q[b]), int(cu_q[b + 1]))
        scores = torch.einsum("qhd,khd->hqk", q[part], k[part]) / math.sqrt(8)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), float("-inf"))
        lse[:, part] = scores.logsumexp(-1)
    for mode in ("matrix", "adjacent", "received"):
        own = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=causal, mode=mode)
        given = segment_attention(q, k, lse, seg_q, seg_k, cu_q, cu_k, causal=causal, mode=mode)
        torch.testing.assert_close(given, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-4), (torch.float16, 2e-4), (torch.float64, 1e-12)]
)
def test_other_dtypes_agree_with_double_precision_on_the_same_inputs(dtype: torch.dtype, tolerance: float) -> None:
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(9, 9)], (2, 1), 16, seed=4, dtype=dtype)
    whole, _ = dense(q, k, seg_q.tolist(), seg_k.tolist(), causal=False)
    found = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found[0].double(), whole.tril(-1), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("mode", ["matrix", "adjacent", "received"])
def test_layers_accumulate_in_place(mode: Mode) -> None:
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(5, 5), (8, 8)], (2, 2), 8, seed=5)
    once = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False, mode=mode)
    into = torch.zeros_like(once)
    for _ in range(2):
        same = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False, mode=mode, accumulate_into=into)
        assert same is into
    torch.testing.assert_close(into, 2 * once)


def test_room_for_more_segments_than_this_batch_has() -> None:
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(5, 5)], (1, 1), 4, seed=6)
    own = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False)
    n = own.shape[1]
    roomy = torch.zeros(1, n + 3, n + 3)
    segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False, accumulate_into=roomy)
    torch.testing.assert_close(roomy[:, :n, :n], own)
    assert not roomy[:, n:].any()


def test_one_sequence_is_blind_to_the_others() -> None:
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(6, 6), (9, 9)], (2, 2), 8, seed=7)
    together = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False)
    q[6:], k[6:] = torch.nan, torch.inf
    first = segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False)
    torch.testing.assert_close(first[0], together[0])


@pytest.mark.parametrize("mode", ["matrix", "adjacent", "received"])
def test_nothing_to_read_gives_zeros(mode: Mode) -> None:
    none = torch.zeros(0, dtype=torch.int32)
    empty = torch.zeros(0, 2, 4)
    found = segment_attention(
        empty, empty, None, none, none, torch.tensor([0, 0]), torch.tensor([0, 0]), causal=False, mode=mode
    )
    assert not found.any()
    q, k, _, _, cu_q, cu_k = packed([(3, 3)], (1, 1), 4, seed=8)
    out = torch.full((3,), -1)
    assert not segment_attention(q, k, None, out, out, cu_q, cu_k, causal=False, mode=mode).any()


def test_what_does_not_fit_is_refused() -> None:
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(3, 3)], (4, 3), 4, seed=9)
    with pytest.raises(ValueError, match="heads"):
        segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False)
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(3, 3)], (2, 2), 4, seed=9)
    with pytest.raises(ValueError, match="mode"):
        segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False, mode="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bounds"):
        segment_attention(q, k, None, seg_q, seg_k, torch.tensor([0, 2]), cu_k, causal=False)
    with pytest.raises(ValueError, match="one entry per query"):
        segment_attention(q, k, None, seg_q[:2], seg_k, cu_q, cu_k, causal=False)
    with pytest.raises(ValueError, match="lse"):
        segment_attention(q, k, torch.zeros(1, 3), seg_q, seg_k, cu_q, cu_k, causal=False)
    with pytest.raises(ValueError, match="accumulate_into"):
        segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False, accumulate_into=torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match="more queries"):
        segment_attention(q, k[:2], None, seg_q, seg_k[:2], cu_q, torch.tensor([0, 2]), causal=True)


def test_an_absent_implementation_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMEM_KERNELS", "reference")
    assert lightmem_kernels.implementation() == "reference"
    monkeypatch.setenv("LIGHTMEM_KERNELS", "triton")
    q, k, seg_q, seg_k, cu_q, cu_k = packed([(3, 3)], (2, 2), 4, seed=9)
    with pytest.raises(RuntimeError, match="needs Triton and a CUDA tensor"):
        segment_attention(q, k, None, seg_q, seg_k, cu_q, cu_k, causal=False)
