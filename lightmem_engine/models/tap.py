"""Queries and keys of chosen layers of a causal model, handed out while it reads.

transformers lets a model's attention be any registered function; this one is `attend`, which first shows what it was
given: after the rotation and with all cached keys, so it is exactly what the attention is computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.attend import attend

Sink = Callable[[int, torch.Tensor, torch.Tensor], None]
_NAME, _ATTRIBUTE = "lightmem_tap", "_lightmem_tap"


class Tap:
    """The tap of one model. Costs an attribute look-up per layer while nobody listens."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        """Put into `model`, a decoder of transformers. An impossible layer is a `ConfigError`."""
        count = int(model.config.num_hidden_layers)
        if not layers or not all(0 <= layer < count for layer in layers):
            raise ConfigError(f"classifier.layers {tuple(layers)}: the model has layers 0 to {count - 1}")
        self._sink: Sink | None = None
        self.layers = frozenset(layers)
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)
        for layer in model.model.layers:
            if layer.self_attn.layer_idx in self.layers:
                setattr(layer.self_attn, _ATTRIBUTE, self)

    @contextmanager
    def into(self, sink: Sink) -> Iterator[None]:
        """Call `sink(layer, q, k)` for every tapped layer inside the block: q [batch, heads, queries, d], k [batch, key
        heads, keys, d]; the queries are the last of the keys' places. One thread at a time."""
        self._sink = sink
        try:
            yield
        finally:
            self._sink = None

    def show(self, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
        """Called by the attention."""
        if self._sink is not None:
            self._sink(layer, q, k)


def last_third(model: Any) -> tuple[int, ...]:
    """The layers that are read unless others are asked for."""
    count = int(model.config.num_hidden_layers)
    return tuple(range(count - max(1, count // 3), count))


def _attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **more: Any) -> Any:
    tap: Tap | None = getattr(module, _ATTRIBUTE, None)
    if tap is not None:
        tap.show(module.layer_idx, query, key)
    return attend(module, query, key, value, *args, **more)
