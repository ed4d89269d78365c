"""How the keys and values of a chunk lie in its file: as they are, or in a byte each.

What is kept in a byte comes back changed a little, and so do the answers. int8 divides the span between the smallest
and the largest number into 255 steps: for keys one span per channel of a chunk, since some channels are large in every
token; for values, where tokens differ and channels do not, one span per token (the observation, and the split, are
those of KIVI, Liu et al. 2024). fp8 is e4m3 with one scale per head.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch

from lightmem_engine.errors import StoreError
from lightmem_engine.kv.files import Bytes
from lightmem_engine.models.kv_bytes import Layout, export
from lightmem_engine.models.kv_fingerprint import EXACT

Kind = Literal["exact", "int8", "fp8"]

_STEPS = 255
_FP8_MAX = 448.0  # the largest number of e4m3
_FP8_SHIFT = 2.0**120  # between the exponents of e4m3 and bfloat16, whose biases are 7 and 127
_FLOAT = 4  # bytes of a scale


class Storage(Protocol):
    """One way. Payloads are uint8 [size]; `unpack` gives them as `kv_bytes` has them."""

    kind: Kind
    layout: Layout

    @property
    def name(self) -> str:
        """Of the layout, for fingerprints."""
        ...

    def size(self, num_tokens: int) -> int:
        """Payload bytes of a chunk."""
        ...

    def pack(self, cache: Any, start: int, payload: Bytes) -> None:
        """Write the tokens of a cache from `start` on, as many as fill the payload.

        Raises `StoreError` for numbers that this way cannot hold.
        """
        ...

    def unpack(self, payload: Bytes) -> Bytes:
        """The keys and values in the cache's own dtype."""
        ...


def storage_of(kind: Kind, layout: Layout) -> Storage:
    """The way of this name."""
    match kind:
        case "int8":
            return Int8(layout)
        case "fp8":
            return Fp8(layout)
        case "exact":
            return Exact(layout)


class Exact:
    """As they are in memory."""

    kind: Kind = "exact"
    name = EXACT

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def size(self, num_tokens: int) -> int:
        """See `Storage`."""
        return num_tokens * self.layout.token_bytes

    def pack(self, cache: Any, start: int, payload: Bytes) -> None:
        """See `Storage`."""
        export(self.layout, cache, start, payload)

    def unpack(self, payload: Bytes) -> Bytes:
        """See `Storage`; the same bytes."""
        return payload


class Int8:
    """float32 [layers, heads, 2 (lowest, step), dim] of the keys, [layers, heads, 2, tokens] of the values, then codes
    uint8 [layers, 2 (keys, values), heads, tokens, dim]."""

    kind: Kind = "int8"
    name = "int8: keys per channel of a chunk, values per token; layers,kv,heads,tokens,dim"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def size(self, num_tokens: int) -> int:
        """See `Storage`."""
        heads, dim = self.layout.layers * self.layout.kv_heads, self.layout.head_dim
        return heads * 2 * (_FLOAT * (dim + num_tokens) + num_tokens * dim)

    def pack(self, cache: Any, start: int, payload: Bytes) -> None:
        """See `Storage`."""
        spans, codes = self._parts(payload)
        stop = start + codes.shape[3]
        for index, layer in enumerate(cache.layers):
            for kind, whole in enumerate((layer.keys, layer.values)):
                numbers = whole[0, :, start:stop].float().cpu()
                lowest, highest = torch.aminmax(numbers, dim=1 + kind, keepdim=True)
                step = (highest - lowest).div_(_STEPS).clamp_min_(torch.finfo(torch.float32).tiny)
                _check(step)
                spans[kind][index, :, 0].copy_(lowest.squeeze(1 + kind))
                spans[kind][index, :, 1].copy_(step.squeeze(1 + kind))
                codes[index, kind].copy_((numbers - lowest).div_(step).round_())

    def unpack(self, payload: Bytes) -> Bytes:
        """See `Storage`."""
        spans, codes = self._parts(payload)
        out, content = _room(self.layout, codes.shape[3])
        for index in range(self.layout.layers):  # by layer, so that what is between stays near the processor
            for kind in range(2):
                lowest, step = spans[kind][index].unsqueeze(2 + kind).unbind(1)
                out[index, kind].copy_(torch.addcmul(lowest, codes[index, kind].float(), step))
        return content

    def _parts(self, payload: Bytes) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        layers, heads, dim = self.layout.layers, self.layout.kv_heads, self.layout.head_dim
        fixed, each = self.size(0), self.size(1) - self.size(0)
        num_tokens = (len(payload) - fixed) // each
        middle = fixed + _FLOAT * 2 * layers * heads * num_tokens
        keys = torch.from_numpy(payload[:fixed].view(np.float32)).view(layers, heads, 2, dim)
        values = torch.from_numpy(payload[fixed:middle].view(np.float32)).view(layers, heads, 2, num_tokens)
        return (keys, values), torch.from_numpy(payload[middle:]).view(layers, 2, heads, num_tokens, dim)


class Fp8:
    """float32 [layers, 2 (keys, values), heads], what 1 stands for, then codes e4m3 [layers, 2, heads, tokens, dim]."""

    kind: Kind = "fp8"
    name = "fp8 e4m3: a scale per head of a chunk; layers,kv,heads,tokens,dim"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def size(self, num_tokens: int) -> int:
        """See `Storage`."""
        return self.layout.layers * 2 * self.layout.kv_heads * (_FLOAT + num_tokens * self.layout.head_dim)

    def pack(self, cache: Any, start: int, payload: Bytes) -> None:
        """See `Storage`."""
        scales, codes = self._parts(payload)
        stop = start + codes.shape[3]
        for index, layer in enumerate(cache.layers):
            for kind, whole in enumerate((layer.keys, layer.values)):
                numbers = whole[0, :, start:stop].float().cpu()
                scale = numbers.abs().amax((1, 2)).div_(_FP8_MAX).clamp_min_(torch.finfo(torch.float32).tiny)
                _check(scale)
                scales[index, kind].copy_(scale)
                small = numbers.div(scale[:, None, None]).clamp_(-_FP8_MAX, _FP8_MAX)
                codes[index, kind].copy_(small.to(torch.float8_e4m3fn).view(torch.uint8))

    def unpack(self, payload: Bytes) -> Bytes:
        """See `Storage`."""
        scales, codes = self._parts(payload)
        out, content = _room(self.layout, codes.shape[3])
        for index in range(self.layout.layers):
            for kind in range(2):
                out[index, kind].copy_(_from_fp8(codes[index, kind]).mul_(scales[index, kind][:, None, None]))
        return content

    def _parts(self, payload: Bytes) -> tuple[torch.Tensor, torch.Tensor]:
        layers, heads, dim = self.layout.layers, self.layout.kv_heads, self.layout.head_dim
        fixed = _FLOAT * layers * 2 * heads
        scales = torch.from_numpy(payload[:fixed].view(np.float32)).view(layers, 2, heads)
        return scales, torch.from_numpy(payload[fixed:]).view(layers, 2, heads, -1, dim)


def _from_fp8(codes: torch.Tensor) -> torch.Tensor:
    """float32 of e4m3 in uint8. Sign, exponent and fraction are put where bfloat16 has them, which is forty times as
    quick on a CPU as torch's own way; no code is NaN."""
    bits = codes.to(torch.int16)
    signs = (bits & 0x80).bitwise_left_shift_(8)
    bits.bitwise_and_(0x7F).bitwise_left_shift_(4).bitwise_or_(signs)
    return bits.view(torch.bfloat16).float().mul_(_FP8_SHIFT)


def _room(layout: Layout, num_tokens: int) -> tuple[torch.Tensor, Bytes]:
    """A tensor as `kv_bytes` has it, and its bytes."""
    content = np.empty(num_tokens * layout.token_bytes, np.uint8)
    shape = (layout.layers, 2, layout.kv_heads, num_tokens, layout.head_dim)
    return torch.from_numpy(content).view(layout.dtype).view(shape), content


def _check(scale: torch.Tensor) -> None:
    if not bool(torch.isfinite(scale).all()):
        raise StoreError("a KV cache holds numbers that are none; only kv.storage = exact can keep it")
