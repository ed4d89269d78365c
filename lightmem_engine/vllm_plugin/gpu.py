"""Sharing one GPU: how much of it the memory's models hold, and what vLLM may then plan with."""

from __future__ import annotations

import sys

CONTEXT_BYTES = 600 * 1024**2  # a CUDA context with its kernels, which torch does not count
GROWTH = 1.5  # batches at their largest, over what has been reserved at start


def gpu_bytes() -> tuple[int, int]:
    """Bytes of GPU memory that this process holds or will hold, and the GPU's own; zeros if it runs nothing there."""
    torch = sys.modules.get("torch")  # whoever runs models has imported it
    if torch is None or not torch.cuda.is_initialized():
        return 0, 0
    _, total = torch.cuda.mem_get_info()
    return CONTEXT_BYTES + int(GROWTH * torch.cuda.max_memory_reserved()), int(total)


def remaining_share(wanted: float, held: int, total: int) -> float:
    """The share of a GPU of `total` bytes that vLLM may plan with, where it was to have `wanted` of it.

    vLLM counts what others hold against its share of the whole, so what the memory holds comes off it.
    """
    return max(0.0, round(wanted - held / total, 4)) if held else wanted
