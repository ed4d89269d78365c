"""Segment attention out of parts that libraries have: attention whose values say which segment a key belongs to.

The output of attention over one-hot values *is* the mass each query gives to each segment, exact and deterministic, at
the price of the value product. It is the path for deterministic runs on a GPU, and the bar a kernel has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from lightmem_kernels import reference

_VALUE_ALIGNMENT = 8  # attention kernels want the width of values to be a multiple of it


def segment_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor | None,
    seg_q: torch.Tensor,
    seg_k: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    *,
    causal: bool,
    mode: str,
    accumulate_into: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `lightmem_kernels.segment_attention`; `lse` is not needed, and `received` is left to the reference."""
    starts_q, starts_k = reference.check_attention(q, k, lse, seg_q, seg_k, cu_q, cu_k, causal, mode)
    if mode == "received":
        return reference.segment_attention(
            q, k, lse, seg_q, seg_k, cu_q, cu_k, causal=causal, mode=mode, accumulate_into=accumulate_into
        )
    out = reference.result_tensor(q, seg_q, seg_k, len(starts_q) - 1, mode, accumulate_into)
    for (num_queries, num_keys), members in _by_lengths(starts_q, starts_k).items():
        rows = torch.tensor([starts_q[b] for b in members]).unsqueeze(1) + torch.arange(num_queries)
        columns = torch.tensor([starts_k[b] for b in members]).unsqueeze(1) + torch.arange(num_keys)
        by_key = _mass(q[rows.to(q.device)], k[columns.to(k.device)], seg_k[columns.to(k.device)], out.shape[1], causal)
        _fold(out, members, by_key, seg_q[rows.to(q.device)], mode)
    return out


def _by_lengths(starts_q: Sequence[int], starts_k: Sequence[int]) -> dict[tuple[int, int], list[int]]:
    """Sequences of equal lengths, which make one batch; those without queries or keys are left out."""
    groups: dict[tuple[int, int], list[int]] = {}
    for b in range(len(starts_q) - 1):
        lengths = (starts_q[b + 1] - starts_q[b], starts_k[b + 1] - starts_k[b])
        if min(lengths):
            groups.setdefault(lengths, []).append(b)
    return groups


def _mass(q: torch.Tensor, k: torch.Tensor, seg_k: torch.Tensor, num_segments: int, causal: bool) -> torch.Tensor:
    """[B, queries, segments]: the mass each query gives to each segment, summed over heads."""
    width = -(-num_segments // _VALUE_ALIGNMENT) * _VALUE_ALIGNMENT
    numbers = torch.arange(width, device=k.device)
    values = (seg_k.unsqueeze(2) == numbers).to(q.dtype)
    heads = q.shape[2]
    keys = k.repeat_interleave(heads // k.shape[2], dim=2) if heads != k.shape[2] else k
    visible = None
    if causal and q.shape[1] != k.shape[1]:
        places = torch.arange(q.shape[1], device=q.device).unsqueeze(1) + k.shape[1] - q.shape[1]
        visible = torch.arange(k.shape[1], device=q.device).unsqueeze(0) <= places
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys.transpose(1, 2),
        values.unsqueeze(1).expand(-1, heads, -1, -1),
        attn_mask=visible,
        is_causal=causal and visible is None,
    )
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    return attended.to(compute).sum(1)[..., :num_segments]


def _fold(out: torch.Tensor, members: Sequence[int], by_key: torch.Tensor, seg_q: torch.Tensor, mode: str) -> None:
    """Add up the queries of each segment, and put what was asked for into the rows of `out`."""
    numbers = torch.arange(by_key.shape[2], device=by_key.device)
    of_segment = (seg_q.unsqueeze(2) == numbers).to(by_key.dtype)
    square = torch.bmm(of_segment.transpose(1, 2), by_key)
    lower = square.tril(-1)
    if mode == "matrix":
        found = lower
    else:
        found = torch.zeros_like(square[..., :3])
        found[:, 1:, 0] = lower.diagonal(-1, 1, 2)
        found[:, :, 1] = lower.sum(2)
        found[:, :, 2] = square.diagonal(0, 1, 2)
    places = torch.tensor(members, device=out.device)
    out[places] += found.to(out.dtype)
