"""Where a key's numbers lie within a block of vLLM's cache.

Backends pack blocks as their kernels like it, on a CPU by instruction set. So a backend is asked: it writes numbered
keys into a block of its own, and where the numbers are found is where keys are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_DIGIT = 128  # whole numbers up to here are exact in every floating type


@dataclass(frozen=True, slots=True)
class PageLayout:
    """places: int64 [block * d], where in a block of one head, row by row, the keys are; None if each row of it begins
    with its token's key."""

    block_size: int
    width: int
    places: torch.Tensor | None

    @classmethod
    def learn(cls, impl: Any, layer: Any, cache: torch.Tensor) -> PageLayout:
        """Ask the backend whose `impl` writes into `cache` [blocks, heads, block, 2 * d]."""
        _, heads, size, both = cache.shape
        width = both // 2
        device = cache.device
        numbers = torch.arange(size * width, device=device).view(size, 1, width)
        slots = torch.arange(size, device=device)
        digits = []
        for power in range(3):
            page = torch.full((1, heads, size, both), -1.0, dtype=cache.dtype, device=device)
            keys = (numbers // _DIGIT**power % _DIGIT).to(cache.dtype).expand(size, heads, width).contiguous()
            impl.do_kv_cache_update(layer, keys, torch.full_like(keys, -1.0), page, slots)
            digits.append(page[0, 0].flatten())
        is_key = digits[0] >= 0
        places = torch.empty(size * width, dtype=torch.long, device=device)
        told = sum(digit[is_key].long() * _DIGIT**power for power, digit in enumerate(digits))
        places[told] = is_key.nonzero().squeeze(1)
        plain = (torch.arange(size, device=device).unsqueeze(1) * both + torch.arange(width, device=device)).flatten()
        return cls(size, width, None if torch.equal(places, plain) else places)

    def keys(self, cache: torch.Tensor, blocks: torch.Tensor, count: int) -> torch.Tensor:
        """[count, heads, d], the first keys of the request that has these blocks."""
        wanted = blocks[: -(-count // self.block_size)].long()
        if self.places is None:
            pages = cache[..., : self.width][wanted]
        else:
            pages = cache[wanted].flatten(2)[..., self.places]
            pages = pages.view(*pages.shape[:2], self.block_size, self.width)
        return pages.transpose(1, 2).flatten(0, 1)[:count]
