"""Which words of each chunk stay, in plain torch: specification, path without Triton, and what the kernel is held to.

Arguments and result are those of `lightmem_kernels.keep_words`.
"""

from __future__ import annotations

import torch


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
    """See `lightmem_kernels.keep_words`."""
    check_selection(probabilities, places, starts, lengths, weights, bounds, ranks, fractions, from_above, is_double)
    if not len(starts):
        return torch.zeros(0, dtype=torch.bool, device=probabilities.device)
    means = _means(probabilities, places.long(), starts.long(), lengths.long())
    num_words = (bounds[1:] - bounds[:-1]).long().to(means.device)
    chunk = torch.repeat_interleave(torch.arange(len(num_words), device=means.device), num_words)
    by_value = means.argsort(stable=True)
    order = by_value[chunk[by_value].argsort(stable=True)]
    upto = weights.long()[order].cumsum(0)
    before = torch.cat([upto.new_zeros(1), upto])[bounds.long()]
    wanted = before[:-1] + ranks.long()
    last = (before[1:] - 1).maximum(before[:-1])
    low, high = (
        means[order[torch.searchsorted(upto, at.minimum(last), right=True).clamp_max(len(order) - 1)]]
        for at in (wanted, wanted + 1)
    )
    single = _between(low, high, fractions.float(), from_above)
    double = _between(low.double(), high.double(), fractions, from_above)
    threshold = torch.where(is_double, double, single.double())
    is_broken = torch.zeros_like(ranks).index_add_(0, chunk, (means.isnan() & (weights > 0)).to(ranks.dtype)) > 0
    ours, own = means.double(), threshold[chunk]
    return ((ours > own) | ((ours == 1) & (own == 1))) & ~is_broken[chunk]


def check_selection(
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
) -> None:
    """Raises `ValueError` if shapes or kinds disagree. Values are not looked at: that would wait for the device."""
    if probabilities.dim() != 1 or probabilities.dtype != torch.float32:
        raise ValueError(f"probabilities must be float32 [T], got {tuple(probabilities.shape)} {probabilities.dtype}")
    if fractions.dtype != torch.float64 or is_double.dtype != torch.bool or from_above.dtype != torch.bool:
        raise ValueError("fractions must be float64, from_above and is_double bool")
    integers = {"places": places, "starts": starts, "lengths": lengths, "weights": weights, "bounds": bounds}
    for name, tensor in {**integers, "ranks": ranks}.items():
        if tensor.dim() != 1 or tensor.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be a list of integers, got {tuple(tensor.shape)} {tensor.dtype}")
    if not lengths.shape == weights.shape == starts.shape:
        raise ValueError("starts, lengths and weights need one entry per word")
    shape = (len(bounds) - 1,)
    if not len(bounds) or any(own.shape != shape for own in (ranks, fractions, from_above, is_double)):
        raise ValueError("bounds need one entry more than there are chunks, all else of chunks one each")


def _means(
    probabilities: torch.Tensor, places: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """float32 [W]: left-to-right sums of the tokens of each word, over their number."""
    told = torch.cat([probabilities, probabilities.new_ones(1)])[places]  # place -1 is the 1 at the end
    sums = told[starts]
    for i in range(1, int(lengths.max())):
        has_token = i < lengths
        more = told[(starts + i).clamp_max(len(told) - 1)]
        sums = torch.where(has_token, sums + more, sums)
    return sums / lengths.float()


def _between(low: torch.Tensor, high: torch.Tensor, fraction: torch.Tensor, from_above: torch.Tensor) -> torch.Tensor:
    step = (high - low) * fraction
    return torch.where(from_above, high - step, low + step)
