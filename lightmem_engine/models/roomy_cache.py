"""A KV cache with room for what comes: a token is written beside those before it, which stay where they are.

A `DynamicCache` puts every new token behind a copy of all earlier ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 64  # tokens of room beyond what was asked for
_GROWTH = 1.5


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """keys, values: the part in use of `buffers`, which have room for more; [batch, heads, tokens, dim]."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def num_bytes(self) -> int:
        """Of the memory it holds, room included."""
        return sum(buffer.nbytes for buffer in self.buffers) if self.buffers is not None else 0

    def claim(self, like: torch.Tensor, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next `num_tokens` places of keys and values, to be written by whoever asks. like: [batch, heads, any,
        dim]."""
        if not self.is_initialized:
            self.lazy_initialization(like, like)
        used = self.get_seq_length()
        needed = used + num_tokens
        if self.buffers is None or self.buffers[0].shape[2] < needed:
            size = max(self._room, needed if self.buffers is None else int(needed * _GROWTH))
            shape = (like.shape[0], like.shape[1], size, like.shape[3])
            grown = _pair(shape, like)
            if used:
                grown[0][:, :, :used].copy_(self.keys)
                grown[1][:, :, :used].copy_(self.values)
            self.buffers = grown
        self.keys, self.values = (buffer[:, :, :needed] for buffer in self.buffers)
        return self.keys[:, :, used:], self.values[:, :, used:]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the attention: take the new tokens in, give all."""
        keys, values = self.claim(key_states, key_states.shape[2])
        keys.copy_(key_states)
        values.copy_(value_states)
        return self.keys, self.values


def roomy_cache(num_layers: int, room: int) -> Any:
    """An empty cache that will hold about `room` tokens; more make it grow."""
    return Cache(layers=[RoomyLayer(room + SPARE) for _ in range(num_layers)])


def _pair(shape: tuple[int, ...], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for keys and values."""
    if like.device.type != "cpu":
        both = torch.empty((2, *shape), dtype=like.dtype, device=like.device)
    else:
        # numpy asks the system for large pages, torch does not: the first touch of each page is what a new cache costs.
        content = np.empty(2 * math.prod(shape) * like.dtype.itemsize, np.uint8)
        both = torch.from_numpy(content).view(like.dtype).view((2, *shape))
    return both[0], both[1]
