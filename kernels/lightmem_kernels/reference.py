"""The operations in plain torch: specification, CPU path and oracle of faster versions.

Arguments and results are those of the public functions in `lightmem_kernels`.
"""

from __future__ import annotations

import numpy as np
import torch

# Scores of one block held at once; bounds the scratch memory to a few tens of MB whatever the lengths.
BLOCK_SCORES = 1 << 22


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
    """See `lightmem_kernels.segment_attention`."""
    starts_q, starts_k = check_attention(q, k, lse, seg_q, seg_k, cu_q, cu_k, causal, mode)
    out = result_tensor(q, seg_q, seg_k, len(starts_q) - 1, mode, accumulate_into)
    num_segments = 0 if mode == "received" else out.shape[1]
    for b in range(len(starts_q) - 1):
        rows, columns = slice(starts_q[b], starts_q[b + 1]), slice(starts_k[b], starts_k[b + 1])
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        keys, key_segments = k[columns], seg_k[columns]
        for part in _row_blocks(rows, q.shape[1] * (columns.stop - columns.start)):
            ahead = (columns.stop - columns.start) - (rows.stop - rows.start) + (part.start - rows.start)
            mass = _token_mass(q[part], keys, None if lse is None else lse[:, part], ahead if causal else None)
            if mode == "received":
                out[columns] += (mass * (seg_q[part] >= 0).unsqueeze(1)).sum(0) * (key_segments >= 0)
            else:
                _add_rectangles(out[b], mass, seg_q[part], key_segments, num_segments, mode)
    return out


def check_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor | None,
    seg_q: torch.Tensor,
    seg_k: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    causal: bool,
    mode: str,
) -> tuple[list[int], list[int]]:
    """The sequence bounds as lists, once everything fits together."""
    if mode not in ("matrix", "adjacent", "received"):
        raise ValueError(f"mode must be matrix, adjacent or received, not {mode!r}")
    if q.dim() != 3 or k.dim() != 3 or q.shape[2] != k.shape[2] or q.dtype != k.dtype:
        raise ValueError(f"q and k must be [T, H, d] of one dtype, got {tuple(q.shape)} and {tuple(k.shape)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads")
    if lse is not None and lse.shape != (q.shape[1], q.shape[0]):
        raise ValueError(f"lse must be [{q.shape[1]}, {q.shape[0]}], got {tuple(lse.shape)}")
    if seg_q.shape != q.shape[:1] or seg_k.shape != k.shape[:1]:
        raise ValueError("seg_q and seg_k need one entry per query and per key")
    starts_q, starts_k = cu_q.tolist(), cu_k.tolist()
    if len(starts_q) != len(starts_k) or not starts_q:
        raise ValueError("cu_q and cu_k must have one entry more than there are sequences")
    queries, keys = np.diff(starts_q), np.diff(starts_k)
    for starts, sizes, total in ((starts_q, queries, q.shape[0]), (starts_k, keys, k.shape[0])):
        if starts[0] != 0 or starts[-1] != total or (sizes < 0).any():
            raise ValueError(f"sequence bounds must grow from 0 to {total}, got {starts}")
    if causal and (queries > keys).any():
        sequence = int((queries > keys).argmax())
        raise ValueError(f"sequence {sequence} has more queries than keys, which causal attention cannot place")
    return starts_q, starts_k


def result_tensor(
    q: torch.Tensor, seg_q: torch.Tensor, seg_k: torch.Tensor, num_sequences: int, mode: str, into: torch.Tensor | None
) -> torch.Tensor:
    """Zeros of the result's shape, or the tensor to accumulate into once it is known to fit."""
    highest = [segments.max() for segments in (seg_q, seg_k) if len(segments)]
    most = 1 + int(torch.stack(highest).max()) if highest else 0  # one wait for the device, not two
    room = max(1, most) if into is None or mode == "received" or into.dim() < 2 else into.shape[1]
    table = (num_sequences, room, room if mode == "matrix" else 3)
    shape = tuple(seg_k.shape) if mode == "received" else table
    if into is None:
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        return torch.zeros(shape, dtype=dtype, device=q.device)
    if into.shape != shape or (mode != "received" and room < most):
        raise ValueError(f"accumulate_into is {tuple(into.shape)}, needed {shape} for {most} segments")
    if into.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"accumulate_into must be float32 or float64, not {into.dtype}")
    return into


def _row_blocks(rows: slice, scores_per_row: int) -> list[slice]:
    size = max(1, BLOCK_SCORES // scores_per_row)
    return [slice(i, min(i + size, rows.stop)) for i in range(rows.start, rows.stop, size)]


def _token_mass(q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor | None, ahead: int | None) -> torch.Tensor:
    """Softmax weights summed over heads, [queries, keys]. `ahead`: keys before the first query's own (causal)."""
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    grouped = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1) if q.shape[1] != k.shape[1] else k
    scores = torch.bmm(q.transpose(0, 1).to(compute), grouped.permute(1, 2, 0).to(compute)) * q.shape[2] ** -0.5
    if ahead is not None:
        places = torch.arange(q.shape[0], device=q.device).unsqueeze(1) + ahead
        hidden = torch.arange(k.shape[0], device=q.device).unsqueeze(0) > places
        scores.masked_fill_(hidden, float("-inf"))
    weights = scores.softmax(-1) if lse is None else scores.sub_(lse.to(compute).unsqueeze(2)).exp_()
    mass: torch.Tensor = weights.sum(0)
    return mass


def _add_rectangles(
    out: torch.Tensor, mass: torch.Tensor, seg_q: torch.Tensor, seg_k: torch.Tensor, num_segments: int, mode: str
) -> None:
    """Fold [queries, keys] into one sequence's result: by key segment, then by query segment."""
    by_key = mass.new_zeros(mass.shape[0], num_segments + 1)
    by_key.index_add_(1, seg_k.long() + 1, mass)
    table = mass.new_zeros(num_segments + 1, num_segments + 1)
    table.index_add_(0, seg_q.long() + 1, by_key)
    square = table[1:, 1:]
    lower = square.tril(-1)
    if mode == "matrix":
        out += lower
        return
    out[1:, 0] += lower.diagonal(-1)
    out[:, 1] += lower.sum(1)
    out[:, 2] += square.diagonal()


def similarity_topk(
    x: torch.Tensor,
    order: torch.Tensor,
    group: torch.Tensor,
    k: int,
    *,
    direction: str,
    queries: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `lightmem_kernels.similarity_topk`."""
    _check_topk(x, order, group, k, direction, queries)
    rank = _ranking(order, group)
    asked = torch.arange(x.shape[0], device=x.device) if queries is None else queries.long()
    scores = torch.full((len(asked), k), float("-inf"), device=x.device)
    rows = torch.full((len(asked), k), -1, dtype=torch.long, device=x.device)
    if not len(asked):
        return scores, rows
    ranked_x, ranked_group = x[rank].float(), group[rank]
    place = torch.empty_like(rank)
    place[rank] = torch.arange(len(rank), device=x.device)
    by_place = place[asked].argsort()
    wanted = place[asked][by_place]
    firsts = torch.searchsorted(ranked_group, ranked_group, right=False)
    ends = torch.searchsorted(ranked_group, ranked_group, right=True)
    begin = 0
    while begin < len(wanted):
        first, end = int(firsts[wanted[begin]]), int(ends[wanted[begin]])
        last = int(torch.searchsorted(wanted, end))
        size = max(1, BLOCK_SCORES // (end - first))
        for part in (slice(i, min(i + size, last)) for i in range(begin, last, size)):
            best, found = _best_of_block(ranked_x, wanted[part], first, end, k, direction)
            scores[by_place[part], : best.shape[1]] = best
            rows[by_place[part], : best.shape[1]] = torch.where(found >= 0, rank[found], found)
        begin = last
    return scores, rows


def _check_topk(
    x: torch.Tensor, order: torch.Tensor, group: torch.Tensor, k: int, direction: str, queries: torch.Tensor | None
) -> None:
    if direction not in ("older", "newer", "any"):
        raise ValueError(f"direction must be older, newer or any, not {direction!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x must be a floating [N, d], got {tuple(x.shape)} {x.dtype}")
    if order.dim() not in (1, 2) or order.shape[0] != x.shape[0] or group.shape != x.shape[:1]:
        raise ValueError("order must be [N] or [N, c] and group [N]")
    if queries is not None and len(queries) and not (int(queries.min()) >= 0 and int(queries.max()) < x.shape[0]):
        raise ValueError(f"queries must lie in 0..{x.shape[0] - 1}")


def _ranking(order: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Rows sorted by group and, within it, by order."""
    columns = order.unsqueeze(1) if order.dim() == 1 else order
    rank = torch.arange(len(group), device=group.device)
    for column in reversed([group, *columns.unbind(1)]):
        rank = rank[column[rank].argsort(stable=True)]
    same = group[rank][1:] == group[rank][:-1]
    if bool((same & (columns[rank][1:] == columns[rank][:-1]).all(1)).any()):
        raise ValueError("order must be total within a group: two rows of one group share it")
    return rank


def _best_of_block(
    x: torch.Tensor, places: torch.Tensor, first: int, end: int, k: int, direction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and ranked rows for queries at ascending `places` of one group [first, end)."""
    if direction == "older":
        end = int(places[-1]) + 1
    elif direction == "newer":
        first = int(places[0])
    columns = torch.arange(first, end, device=x.device)
    scores = x[places] @ x[first:end].T
    if direction == "older":
        barred = columns >= places.unsqueeze(1)
    elif direction == "newer":
        barred = columns <= places.unsqueeze(1)
    else:
        barred = columns == places.unsqueeze(1)
    best, found = scores.masked_fill_(barred, float("-inf")).topk(min(k, end - first), dim=1)
    return best, torch.where(best == float("-inf"), -1, found + first)
