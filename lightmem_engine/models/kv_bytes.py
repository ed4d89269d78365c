"""A KV cache as bytes, and back.

A chunk's payload is the tensor [layers, 2 (keys, values), kv heads, tokens, head dim] in the cache's own dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightmem_engine.kv.files import Bytes
from lightmem_engine.models.roomy_cache import roomy_cache


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of a model's KV."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Of one token."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize


def layout_of(model: Any) -> Layout:
    """The layout of a dense Qwen2 or Qwen3."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Layout(config.num_hidden_layers, config.num_key_value_heads, head_dim, model.dtype)


def export(layout: Layout, cache: Any, start: int, payload: Bytes) -> None:
    """Write the tokens from `start` on, as many as fill the payload."""
    target = _tensor(layout, payload)
    stop = start + target.shape[3]
    for layer, place in zip(cache.layers, target, strict=True):
        place[0].copy_(layer.keys[0, :, start:stop])
        place[1].copy_(layer.values[0, :, start:stop])


def restore(
    layout: Layout,
    prefix: Any,
    num_prefix: int,
    payloads: Sequence[tuple[int, Bytes]],
    num_tokens: int,
    device: Any,
    room: int = 0,
) -> Any:
    """A cache of its own with `num_tokens` tokens and room for `room`: the first of `prefix` (a cache), then those of
    the payloads.

    payloads: (place of its first token, bytes), in order and without gaps; they may overlap with the prefix and go
    beyond the end.
    """
    parts = [(start, _tensor(layout, payload)) for start, payload in payloads]
    cache = roomy_cache(layout.layers, max(room, num_tokens))
    like = torch.empty((1, layout.kv_heads, 0, layout.head_dim), dtype=layout.dtype, device=device)
    for index, own in enumerate(cache.layers):
        pair = own.claim(like, num_tokens)  # filled once, where attention will read it
        if num_prefix:
            layer = prefix.layers[index]
            for whole, known in zip(pair, (layer.keys, layer.values), strict=True):
                whole[:, :, :num_prefix].copy_(known[:, :, :num_prefix])
        for start, part in parts:
            first, stop = max(start, num_prefix), min(start + part.shape[3], num_tokens)
            for whole, found in zip(pair, part[index], strict=True):
                whole[0, :, first:stop].copy_(found[:, first - start : stop - start])
    return cache


def _tensor(layout: Layout, payload: Bytes) -> torch.Tensor:
    shape = (layout.layers, 2, layout.kv_heads, -1, layout.head_dim)
    return torch.from_numpy(payload).view(layout.dtype).view(shape)
