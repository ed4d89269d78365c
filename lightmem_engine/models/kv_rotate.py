"""Keys of one place in a prompt turned to those of another.

A key at place m is R(m)k, and R(a)R(b) = R(a + b), so R(d) turns it to place m + d; values carry no place. That is
exact for text that saw nothing before it. Keys behind other text than they were computed behind are right in the first
layer alone: further up they hold what was attended to. `kv.reuse = approximate` takes them all the same, as an
experiment.
"""

from __future__ import annotations

from typing import Any

import torch

from lightmem_engine.errors import ConfigError

_STATIC = ("default", "linear", "llama3", "yarn")  # frequencies that do not depend on the prompt's length


class Rotation:
    """Of one model, by its own frequencies, as they are in memory: a cast to bfloat16 has rounded them, too."""

    def __init__(self, frequencies: torch.Tensor) -> None:
        """frequencies: radians per place, one for each pair of channels i and i + dim / 2; [dim / 2]."""
        self._frequencies = frequencies

    @classmethod
    def of(cls, model: Any) -> Rotation:
        """Raises `ConfigError` for a model whose keys cannot be turned so."""
        config = model.config
        rope = dict(getattr(config, "rope_parameters", None) or {})
        kind = rope.get("rope_type", "default")
        if kind not in _STATIC:
            _refuse(f"rotary embedding of type {kind}")
        if "mrope_section" in rope:
            _refuse("rotary embedding of several dimensions")
        if float(rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1) != 1:
            _refuse("rotary embedding of a part of the channels")
        kinds = set(getattr(config, "layer_types", None) or ())
        if kinds - {"full_attention"}:
            _refuse(f"layers of type {', '.join(sorted(kinds - {'full_attention'}))}")
        return cls(model.model.rotary_emb.inv_freq)

    def turn(self, keys: torch.Tensor, by: int) -> torch.Tensor:
        """Keys [..., dim] from their place to the one `by` behind it (before it, if negative), in their dtype. Once:
        every turn rounds."""
        angles = self._frequencies.double() * by  # float32 would lose what the model itself does not
        cos, sin = angles.cos().float(), angles.sin().float()
        first, second = keys.float().chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(keys.dtype)


def _refuse(what: str) -> None:
    raise ConfigError(f"kv.reuse = approximate cannot turn the keys of a model with {what}; set kv.reuse = exact")
