"""BERT and XLM-R layers over packed tokens: no padding is ever computed, and work nobody asked for is left out.

Linear layers see all tokens of a batch as one matrix. Attention runs per group of equally long neighbours on a CPU, so
sequences should come sorted by length, and in one variable-length call on a GPU where torch has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.laid_out import can_lay_out

VARLEN_ALIGNMENT = 8  # of a head's width, which torch's variable-length attention asks for
# Rows of one pass through the wide layers on a CPU: their activations then stay in the cache.
_WIDE_ROWS = 512


@dataclass(frozen=True, slots=True)
class Captured:
    """What one layer's attention was computed from: q and k, each [tokens, heads, d]; `lse` float32 [heads, tokens],
    the log of each row's softmax denominator, where the attention kernel says it."""

    layer: int
    q: torch.Tensor
    k: torch.Tensor
    lse: torch.Tensor | None = None


class _Linear:
    """A linear layer; on a CPU its weights are laid out for oneDNN and the plain ones are not kept."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._weight, self._bias = weight, bias
        self._is_laid_out = can_lay_out(weight)
        if self._is_laid_out:
            with torch.inference_mode():
                self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)

    def __call__(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        if self._is_laid_out:
            found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, "gelu" if gelu else "none", [], "none"
            )
            return found
        out = F.linear(x, self._weight, self._bias)
        return F.gelu(out) if gelu else out

    def first(self, width: int) -> _Linear:
        """A layer with the first `width` outputs of this one."""
        weight = self._weight.to_dense() if self._is_laid_out else self._weight
        return _Linear(weight[:width], self._bias[:width])


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: _Linear
    out: _Linear
    out_norm: _Norm
    up: _Linear
    down: _Linear
    down_norm: _Norm


class PackedBody:
    """The layers of a loaded model. Takes over its weights, so the model itself can be dropped.

    labels: how many the token-classification head has; 0 without one.
    """

    def __init__(self, model: Any) -> None:
        """`model`: a BERT or RoBERTa body of transformers, with or without a head; another kind is a `ConfigError`."""
        config, body = model.config, model.base_model
        if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
            raise ConfigError(f"positions of type {config.position_embedding_type} are not supported")
        embeddings = body.embeddings
        self.num_heads = int(config.num_attention_heads)
        # RoBERTa counts positions from the padding id + 1 and leaves out padding tokens that somebody wrote.
        self._padding = None if config.model_type == "bert" else int(config.pad_token_id)
        self._words = embeddings.word_embeddings.weight.detach()
        types = embeddings.token_type_embeddings.weight.detach()
        self._places = embeddings.position_embeddings.weight.detach() + types[0]
        self._norm = _norm(embeddings.LayerNorm)
        self._layers = [_layer(layer) for layer in body.encoder.layer]
        self._ends: dict[int, _Linear] = {}
        exact_gelu = config.hidden_act == "gelu"
        self._activation: Callable[[torch.Tensor], torch.Tensor] | None = (
            None if exact_gelu else ACT2FN[config.hidden_act]
        )
        head: Any = getattr(model, "classifier", None)
        if not isinstance(head, torch.nn.Linear):
            head = None
        self._head = None if head is None else _linear(head)
        self.labels = 0 if head is None else int(head.out_features)
        self.vocabulary = int(self._words.shape[0])

    def classify(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [tokens, labels] of hidden states."""
        assert self._head is not None
        return self._head(hidden).float()

    def run(
        self,
        ids: torch.Tensor,
        lengths: Sequence[int],
        *,
        visible: torch.Tensor | None = None,
        layers: Sequence[int] = (),
        sink: Callable[[Captured], None] | None = None,
        hidden: bool = True,
    ) -> torch.Tensor | None:
        """Hidden states [tokens, dim] of the packed sequences; None unless `hidden`.

        ids: int64 [tokens].   visible: bool [tokens], False hides a token from the attention of the others.
        sink: called once per layer of `layers`, in order. Without `hidden` nothing beyond the last of them is computed.
        """
        wanted = frozenset(layers) if sink is not None else frozenset[int]()
        last = len(self._layers) - 1 if hidden else max(wanted, default=-1)
        if last < 0:
            return None
        x = self._norm(self._words[ids] + self._places[self._positions(ids, lengths)])
        for number, layer in enumerate(self._layers[: last + 1]):
            is_seen = number in wanted
            if number == last and not hidden:
                assert sink is not None
                q, k = self._queries_and_keys(number)(x).view(len(x), 2, self.num_heads, -1).unbind(1)
                sink(Captured(number, q, k))
                return None
            qkv = layer.qkv(x).view(len(x), 3, self.num_heads, -1)
            mixed, lse = attend(qkv, lengths, visible, with_lse=is_seen)
            if is_seen and sink is not None:
                sink(Captured(number, qkv[:, 0], qkv[:, 1], lse))
            x = self._finish(layer, x, mixed)
        return x

    def _queries_and_keys(self, number: int) -> _Linear:
        """The first two thirds of a layer's projections; made when first asked for, since few layers end a pass."""
        if number not in self._ends:
            self._ends[number] = self._layers[number].qkv.first(2 * self._words.shape[1])
        return self._ends[number]

    def _finish(self, layer: _Layer, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Everything of a layer after its attention; row by row, so it may be done in slices."""
        if x.device.type == "cuda" or len(x) <= _WIDE_ROWS:
            return self._feed(layer, x, mixed)
        out = torch.empty_like(x)
        for at in range(0, len(x), _WIDE_ROWS):
            rows = slice(at, at + _WIDE_ROWS)
            out[rows] = self._feed(layer, x[rows], mixed[rows])
        return out

    def _feed(self, layer: _Layer, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        x = layer.out_norm(layer.out(mixed).add_(x))
        wide = layer.up(x, gelu=True) if self._activation is None else self._activation(layer.up(x))
        return layer.down_norm(layer.down(wide).add_(x))

    def _positions(self, ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        device = ids.device
        if self._padding is None or not bool((ids == self._padding).any()):
            first = 0 if self._padding is None else self._padding + 1
            longest = torch.arange(first, first + max(lengths, default=0), device=device)
            return torch.cat([longest[:length] for length in lengths])
        real = (ids != self._padding).long()
        counted = torch.cat([part.cumsum(0) for part in torch.split(real, list(lengths))])
        return counted * real + self._padding


def attend(
    qkv: torch.Tensor, lengths: Sequence[int], visible: torch.Tensor | None = None, *, with_lse: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention within each of the packed sequences: [tokens, heads * d], and its `lse` where the kernel says it.

    qkv: [tokens, 3, heads, d].   visible: as in `PackedBody.run`.   lse: float32 [heads, tokens], if asked for.
    """
    tokens, _, heads, width = qkv.shape
    is_half = qkv.dtype in (torch.float16, torch.bfloat16)
    if qkv.device.type == "cuda" and visible is None and is_half and width % VARLEN_ALIGNMENT == 0:
        found = _varlen(qkv, lengths, with_lse)
        if found is not None:
            return found[0].reshape(tokens, heads * width), found[1]
    parts: list[torch.Tensor] = []
    start = 0
    for length, group in itertools.groupby(lengths):
        members = len(list(group))
        end = start + members * length
        q, k, v = qkv[start:end].view(members, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        mask = None
        if visible is not None and not bool(visible[start:end].all()):
            mask = visible[start:end].view(members, 1, 1, length)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        parts.append(mixed.transpose(1, 2).reshape(members * length, heads * width))
        start = end
    return parts[0] if len(parts) == 1 else torch.cat(parts), None


def _varlen(
    qkv: torch.Tensor, lengths: Sequence[int], with_lse: bool
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Torch's own variable-length attention and its denominators, or None where this torch has none."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        return None
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=qkv.device)
    longest = max(lengths)
    q, k, v = (part.contiguous() for part in qkv.unbind(1))
    found: Any = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, return_aux=AuxRequest(lse=True) if with_lse else None
    )
    if not isinstance(found, tuple):
        return found, None
    return found[0], by_head(found[1], len(q), q.shape[1])


def by_head(lse: torch.Tensor, num_tokens: int, num_heads: int) -> torch.Tensor | None:
    """float32 [heads, tokens], whichever way round a release of torch returns it; None where the shape does not tell,
    and the reducer then computes its own."""
    if num_tokens == num_heads or lse.dim() != 2:
        return None
    return (lse if lse.shape == (num_heads, num_tokens) else lse.T).float().contiguous()


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight.detach(), module.bias.detach(), float(module.eps))


def _linear(*modules: Any) -> _Linear:
    """One or several projections of the same input as one."""
    if len(modules) == 1:
        return _Linear(modules[0].weight.detach(), modules[0].bias.detach())
    return _Linear(
        torch.cat([module.weight.detach() for module in modules]),
        torch.cat([module.bias.detach() for module in modules]),
    )


def _layer(module: Any) -> _Layer:
    own = module.attention.self
    return _Layer(
        qkv=_linear(own.query, own.key, own.value),
        out=_linear(module.attention.output.dense),
        out_norm=_norm(module.attention.output.LayerNorm),
        up=_linear(module.intermediate.dense),
        down=_linear(module.output.dense),
        down_norm=_norm(module.output.LayerNorm),
    )
