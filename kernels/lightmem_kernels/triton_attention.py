"""Segment attention by the kernels of `attention_kernels`: tilings, work lists, launches.

Last bits depend on the order in which programs finish; `torch.use_deterministic_algorithms(True)` takes another path
(see `lightmem_kernels.segment_attention`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton

from lightmem_kernels import reference
from lightmem_kernels.attention_kernels import denominators, fold_tile

MODES = {"matrix": 0, "adjacent": 1, "received": 2}


@dataclass(frozen=True, slots=True)
class Tiling:
    """Queries and keys of a tile, and how the compiler is to spread it."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# By width of a head. Both fit two or one to a multiprocessor of an H100 without spills; `tests/kernels` compiles them.
TILINGS = {64: Tiling(64, 128, 4, 3), 128: Tiling(128, 128, 8, 2)}
INTERPRETED = Tiling(32, 32, 4, 1)


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
    tiling: Tiling | None = None,
) -> torch.Tensor:
    """See `lightmem_kernels.segment_attention`. Bounds on the CPU spare a wait for the device.

    tiling: instead of the one that the head's width asks for.
    """
    starts_q, starts_k = reference.check_attention(q, k, lse, seg_q, seg_k, cu_q, cu_k, causal, mode)
    out = reference.result_tensor(q, seg_q, seg_k, len(starts_q) - 1, mode, accumulate_into)
    width = max(16, triton.next_power_of_2(q.shape[2]))
    interpreted = not q.is_cuda
    tiling = tiling or (INTERPRETED if interpreted else TILINGS[64 if width <= 64 else 128])
    tiles, most_keys = _tiles(starts_q, starts_k, tiling.queries)
    if not len(tiles):
        return out
    q, k = _rows(q), _rows(k)
    where = torch.from_numpy(tiles).to(q.device, non_blocking=True)
    common: dict[str, Any] = {
        "GROUP": q.shape[1] // k.shape[1],
        "DIM": width,
        "QUERIES": tiling.queries,
        "KEYS": tiling.keys,
        "CAUSAL": causal,
        "UPCAST": interpreted,
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }
    scale, strides = q.shape[2] ** -0.5, (q.stride(0), q.stride(1), k.stride(0), k.stride(1))
    if lse is None:
        lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
        denominators[(len(tiles), q.shape[1])](q, k, lse, where, scale, q.shape[2], *strides, lse.stride(0), **common)
    lse = lse.contiguous()
    row, key_tiles = out.stride(1) if out.dim() == 3 else 0, triton.cdiv(most_keys, tiling.keys)
    fold_tile[(len(tiles) * key_tiles,)](
        q, k, lse, seg_q.int(), seg_k.int(), where, out, scale, q.shape[2], key_tiles, *strides, lse.stride(0),
        out.stride(0), row, HEADS=q.shape[1], MODE=MODES[mode], SPLIT=not interpreted, **common,
    )  # fmt: skip
    return out


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with its last dimension dense; kernels take any other strides."""
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _tiles(starts_q: list[int], starts_k: list[int], size: int) -> tuple[np.ndarray, int]:
    """The rows of `tiles`, int32 [num_tiles, 6], and the most keys a sequence has."""
    bounds_q, bounds_k = np.array(starts_q, np.int64), np.array(starts_k, np.int64)
    queries, keys = np.diff(bounds_q), np.diff(bounds_k)
    counts = np.where(keys > 0, -(-queries // size), 0)
    of = np.repeat(np.arange(len(counts)), counts)
    begun = (np.arange(len(of)) - np.repeat(counts.cumsum() - counts, counts)) * size  # queries before the tile
    columns = (
        of,
        bounds_q[of] + begun,
        bounds_q[of + 1],
        bounds_k[of],
        bounds_k[of + 1],
        keys[of] - queries[of] + begun,
    )
    return np.stack(columns, 1).astype(np.int32), int(keys[of].max(initial=0))
