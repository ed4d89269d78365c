"""`TRITON_INTERPRET=1 python -m tests.kernels.interpreted_attention`: the kernel, run by Triton's interpreter.

Prints one JSON object per case: what it was, and the relative error against double precision. A process of its own,
because the interpreter is chosen when a kernel is defined.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

from lightmem_kernels import reference
from lightmem_kernels.triton_attention import MODES, Tiling, segment_attention
from tests.kernels.test_segment_attention import packed

TILINGS = (Tiling(32, 32, 4, 1), Tiling(16, 64, 4, 1))
# lengths of (queries, keys), heads of (queries, keys), width, causal: empty, one token, odd, straddling a tile, cached
CASES = (
    ([(5, 5)], (2, 2), 8, False),
    ([(1, 1), (7, 7), (0, 0), (13, 13)], (3, 3), 5, False),
    ([(70, 70), (33, 33), (123, 123)], (2, 2), 64, False),
    ([(1, 1), (6, 6), (17, 17), (64, 64)], (4, 2), 8, True),
    ([(3, 9), (0, 4), (1, 12), (31, 97)], (6, 2), 16, True),
    ([(40, 123), (65, 65)], (4, 1), 128, True),
)


def errors() -> Iterator[dict[str, object]]:
    """||kernel - truth|| / ||truth|| of every case, mode and tiling; the second comes with an lse."""
    for number, (lengths, heads, dim, causal) in enumerate(CASES):
        for seed, tiling in enumerate(TILINGS):
            q, k, *rest = packed(lengths, heads, dim, seed)
            if seed:
                rest[0], rest[1] = crowded(lengths)
            for mode in MODES:
                truth = reference.segment_attention(q.double(), k.double(), None, *rest, causal=causal, mode=mode)
                lse = denominators(q, k, rest[2], rest[3], causal) if seed else None
                into = torch.ones_like(truth, dtype=torch.float32)
                found = segment_attention(
                    q, k, lse, *rest, causal=causal, mode=mode, accumulate_into=into, tiling=tiling
                )
                apart = (found.double() - 1 - truth).norm() / truth.norm().clamp_min(1e-9)
                yield {"case": number, "mode": mode, "tiling": seed, "error": float(apart)}


def crowded(lengths: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Segments of one token each, the first and last of a sequence left out."""
    of_query, of_key = [], []
    for num_queries, num_keys in lengths:
        segments = torch.arange(num_keys) - 1
        segments[-1:] = -1
        of_key.append(segments)
        of_query.append(segments[num_keys - num_queries :])
    return torch.cat(of_query), torch.cat(of_key)


def denominators(
    q: torch.Tensor, k: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, causal: bool
) -> torch.Tensor:
    """float32 [heads, queries], by plain torch."""
    lse = torch.zeros(q.shape[1], q.shape[0])
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    for b in range(len(cu_q) - 1):
        rows, columns = slice(int(cu_q[b]), int(cu_q[b + 1])), slice(int(cu_k[b]), int(cu_k[b + 1]))
        num_queries, num_keys = rows.stop - rows.start, columns.stop - columns.start
        scores = torch.einsum("qhd,khd->hqk", q[rows], keys[columns]) * q.shape[2] ** -0.5
        if causal:
            hidden = torch.ones(num_queries, num_keys, dtype=torch.bool).triu(1 + num_keys - num_queries)
            scores = scores.masked_fill(hidden, float("-inf"))
        if num_queries and num_keys:
            lse[:, rows] = scores.logsumexp(-1)
    return lse


if __name__ == "__main__":
    for found in errors():
        print(json.dumps(found))
