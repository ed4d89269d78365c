"""Attention reductions, selection of words and similarity search behind one door.

The public functions pick an implementation per call; callers never ask which one runs. `LIGHTMEM_KERNELS` says what
may be picked: `auto` (the fastest for the tensor's device), `reference` (plain torch), `library` (attention of torch
over one-hot values) or `triton`. Asking by name for one that cannot run here raises instead of falling back. Under
`torch.use_deterministic_algorithms(True)`, `auto` leaves out what adds up in an order of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Literal

import torch

from lightmem_kernels import reference

__all__ = ["Direction", "Mode", "implementation", "keep_words", "segment_attention", "similarity_topk"]

_SEGMENT_ATTENTION = {
    "reference": "lightmem_kernels.reference",
    "library": "lightmem_kernels.library",
    "triton": "lightmem_kernels.triton_attention",
}

_KEEP_WORDS = {
    "reference": "lightmem_kernels.selection",
    "library": "lightmem_kernels.selection",
    "triton": "lightmem_kernels.triton_selection",
}

Mode = Literal["matrix", "adjacent", "received"]
Direction = Literal["older", "newer", "any"]

_KNOWN = ("auto", "reference", "library", "triton")


def implementation(device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """Name of the implementation of `segment_attention` for tensors on this kind of device.

    Raises `RuntimeError` if `LIGHTMEM_KERNELS` names one that is unknown or cannot run there.
    """
    asked = os.environ.get("LIGHTMEM_KERNELS", "auto")
    if asked not in _KNOWN:
        raise RuntimeError(f"LIGHTMEM_KERNELS={asked} is not in this build; it has: {', '.join(_KNOWN)}")
    has_triton = device == "cuda" and importlib.util.find_spec("triton") is not None
    if asked == "triton" and not has_triton:
        raise RuntimeError(f"LIGHTMEM_KERNELS=triton needs Triton and a CUDA tensor; this one is on {device}")
    if asked != "auto":
        return asked
    if device != "cuda" or dtype == torch.float64:
        return "reference"
    return "triton" if has_triton and not torch.are_deterministic_algorithms_enabled() else "library"


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
    mode: Mode = "matrix",
    accumulate_into: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention mass between segments of packed sequences, without ever keeping the map.

    P = softmax(q kᵀ / sqrt(d)) per head; what comes back is P summed over heads and over rectangles of tokens.

    Args:
        q: [Tq, Hq, d], the queries of all sequences one after another, any floating dtype.
        k: [Tk, Hk, d], the keys likewise; Hq is a multiple of Hk (query head h reads key head h // (Hq / Hk)).
        lse: float32 [Hq, Tq], natural log of each row's softmax denominator as flash attention returns it, or None:
            then it is computed here.
        seg_q, seg_k: integer [Tq], [Tk], the segment of each token within its sequence, counted from 0; -1 leaves
            the token out (specials, padding). Left-out keys still share in the softmax, they are merely not reported.
        cu_q, cu_k: integer [B + 1], where each sequence begins and ends in q and in k; on the CPU they spare a wait
            for the device. A sequence may have fewer
            queries than keys (a cached prefix): its queries are then the last ones.
        causal: a query sees keys up to its own place only, places being aligned at the end of the sequence.
        mode: `matrix` float32 [B, n, n], entry [b, i, j] for j < i is the mass from segment i to segment j, else 0;
            `adjacent` float32 [B, n, 3], the mass from segment i to segment i - 1, to all earlier ones, and to itself;
            `received` float32 [Tk], the mass each key gets from the queries of its sequence that are not left out.
            n is the largest segment number plus one, or what `accumulate_into` has room for.
        accumulate_into: a float32 tensor of the result's shape that is added to in place and returned, so that layers
            are summed without a list of results.

    Sums are not divided: one layer adds at most Hq per query token. float64 input is computed and returned as float64.

    Raises:
        ValueError: shapes, dtypes or bounds disagree.
        RuntimeError: `LIGHTMEM_KERNELS` names an implementation this build lacks.
    """
    chosen = importlib.import_module(_SEGMENT_ATTENTION[implementation(q.device.type, q.dtype)])
    result: torch.Tensor = chosen.segment_attention(
        q, k, lse, seg_q, seg_k, cu_q, cu_k, causal=causal, mode=mode, accumulate_into=accumulate_into
    )
    return result


def keep_words(
    probabilities: torch.Tensor,
    places: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    weights: torch.Tensor,
    bounds: torch.Tensor,
    ranks: torch.Tensor,
    fractions: torch.Tensor,
    from_above: torch.Tensor,
    is_double: torch.Tensor,
) -> torch.Tensor:
    """Per word of packed chunks whether it lies above a weighted percentile of its chunk; the same bits everywhere.

    A word's value is the mean of its tokens: their sum from left to right in float32, over their number. A chunk's
    threshold lies between the values of two neighbouring ranks, each value counted as often as its word weighs. A word
    stays if its value is above the threshold, or if both are 1. With a value that is no number in a chunk, none stays.

    Args:
        probabilities: float32 [T], from 0 to 1, of tokens.
        places: integer [t], for every token of a word where its probability stands; -1 for one that counts as 1.
        starts, lengths: integer [W], the first of a word's tokens in `places`, and how many there are, at least one.
        weights: integer [W], not negative.
        bounds: integer [C + 1], where each chunk begins and ends among the words; on the CPU it spares a wait for the
            device. The weights of a chunk add up to more than its rank.
        ranks: integer [C], counted from 0, the rank below the threshold; above the last one there is the last one.
        fractions: float64 [C], how far the threshold is from the lower value or, `from_above`, from the higher one, in
            steps from value to value.
        from_above: bool [C].   is_double: bool [C], whether the threshold is computed in float64, else in float32.

    Returns bool [W].

    Raises:
        ValueError: shapes or dtypes disagree.
        RuntimeError: `LIGHTMEM_KERNELS` names an implementation this build lacks.
    """
    chosen = importlib.import_module(_KEEP_WORDS[implementation(probabilities.device.type)])
    result: torch.Tensor = chosen.keep_words(
        probabilities, places, starts, lengths, weights, bounds, ranks, fractions, from_above, is_double
    )
    return result


def similarity_topk(
    x: torch.Tensor,
    order: torch.Tensor,
    group: torch.Tensor,
    k: int,
    *,
    direction: Direction,
    queries: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of each row's own group among those that come before it, after it, or anywhere.

    Args:
        x: [N, d], floating, unit rows (the score is the dot product).
        order: int64 [N] or [N, c]; rows are compared by it, first column first. It must be total within a group: event
            time and then the place in the log, for instance.
        group: int64 [N]; rows of different groups never meet.
        k: at least 1.
        direction: `older` looks at rows with smaller order, `newer` with larger, `any` at all; never at the row itself.
        queries: int64 [Q], the rows to ask for; None asks for all.

    Returns:
        scores float32 [Q, k] in descending order and rows int64 [Q, k]; where fewer than k qualify, -inf and -1.

    Raises:
        ValueError: shapes or values disagree, or the order of a group is not total.
        RuntimeError: `LIGHTMEM_KERNELS` names an implementation this build lacks.
    """
    implementation(x.device.type)
    return reference.similarity_topk(x, order, group, k, direction=direction, queries=queries)
