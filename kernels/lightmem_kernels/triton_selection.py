"""The selection of words by the kernel of `selection_kernel`. The same bits on every run."""

from __future__ import annotations

import torch
import triton

from lightmem_kernels.selection import check_selection
from lightmem_kernels.selection_kernel import select_words

NUM_WARPS = 4
LEAST_WORDS = 64  # fewer places are no faster


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
    """See `lightmem_kernels.keep_words`. Bounds on the CPU spare a wait for the device."""
    check_selection(probabilities, places, starts, lengths, weights, bounds, ranks, fractions, from_above, is_double)
    device = probabilities.device
    keep = torch.zeros(len(starts), dtype=torch.int8, device=device)
    if not len(starts):
        return keep.bool()
    most = int((bounds[1:] - bounds[:-1]).max())
    forms = from_above.int() + 2 * is_double.int()
    integers = (places, starts, lengths, weights, bounds, ranks)
    narrow = [own.to(device, torch.int32, non_blocking=True).contiguous() for own in integers]
    select_words[(len(ranks),)](
        probabilities.contiguous(), *narrow, fractions.to(device), forms.to(device), keep,
        WORDS=max(LEAST_WORDS, triton.next_power_of_2(most)), num_warps=NUM_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return keep.bool()
