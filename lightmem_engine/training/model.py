"""The micro model: its sizes, where its weights begin, and what moves them.

The first weights are those of a model that copies badly rather than not at all. What the tasks need first is
induction: find what stood before like the present token, and say what followed it. Heads that carry each token to its
successor, and heads of a later layer that look for a token so carried, are that circuit; it is written down here,
because on one core chance needs much of the training to find it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config

_WEIGHT = 0.02  # standard deviation of all other first weights
_EMBEDDING = 0.06  # standard deviation of the first embeddings; three times the usual, for logits that tell apart
_CARRY = 0.1  # how strongly a head writes what it reads
_SHARPNESS = 4.0  # of the attention of these heads
_SHARP = 6  # rotary pairs, the fastest, by which a head tells the token before from others
_SLOW = 6  # rotary pairs before this one turn too fast for matching at a distance
_ROTARY_BASE = 1e6


def configuration(tokenizer: Any, *, hidden: int, layers: int, heads: int, inner: int, context: int) -> Any:
    """A Qwen3 of these sizes with tied embeddings; head_dim is hidden / heads."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=_WEIGHT,
        rope_parameters={"rope_type": "default", "rope_theta": _ROTARY_BASE},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def begin_as_copier(model: Any) -> None:
    """Set the attention weights of the first two layers, in place: the first carries each token to the next place, the
    second looks for a carried token like the present one and writes what stands there. As many key heads as query
    heads are assumed."""
    layers = model.model.layers
    head_dim = model.config.head_dim
    common = torch.where(torch.rand(model.config.hidden_size) < 0.5, -1.0, 1.0)
    toward = common / common.norm()
    embeddings = model.model.embed_tokens.weight
    embeddings.mul_(_EMBEDDING / _WEIGHT)
    # The same vector in every embedding lets a head attend by place alone; in the logits it changes nothing.
    embeddings.add_(_WEIGHT * common)
    apart = torch.eye(len(common)) - torch.outer(toward, toward)
    turn = _rotation(apart) + torch.outer(toward, toward)  # where carried tokens are kept apart from present ones
    _look_back(layers[0].self_attn, toward, head_dim)
    _pass_on(layers[0].self_attn, turn @ apart)
    if len(layers) > 1:
        _match(layers[1].self_attn, apart, turn, head_dim)
        _pass_on(layers[1].self_attn, 2 * apart)


def _rotation(apart: torch.Tensor) -> torch.Tensor:
    """A random rotation of the space that `apart` projects on; zero elsewhere."""
    basis = torch.linalg.svd(apart)[0][:, :-1]
    turned: torch.Tensor = torch.nn.init.orthogonal_(torch.empty(basis.shape[1], basis.shape[1]))
    rotation: torch.Tensor = basis @ turned @ basis.T
    return rotation


def _look_back(attention: Any, toward: torch.Tensor, head_dim: int) -> None:
    """Keys turned by one place against queries: the product is largest where the key is one token earlier."""
    half = head_dim // 2
    pairs = torch.arange(min(_SHARP, half))
    angles = _ROTARY_BASE ** (-pairs / half)
    query, key = torch.zeros(head_dim), torch.zeros(head_dim)
    query[pairs] = 1.0
    key[pairs], key[pairs + half] = angles.cos(), angles.sin()
    num_heads = len(toward) // head_dim
    for weight, place in ((attention.q_proj.weight, query), (attention.k_proj.weight, key)):
        weight.mul_(0.1).add_(torch.outer(place.repeat(num_heads), toward))
    attention.q_norm.weight.fill_(_SHARPNESS)


def _match(attention: Any, apart: torch.Tensor, turn: torch.Tensor, head_dim: int) -> None:
    """Queries of present tokens against keys of carried ones, in the slow rotary pairs, which hold over distance."""
    looked_for = torch.nn.init.orthogonal_(torch.empty_like(apart)) @ apart
    pair = torch.arange(len(apart)) % head_dim % (head_dim // 2)
    looked_for *= torch.where(pair < min(_SLOW, head_dim // 4), 0.1, 1.0)[:, None]
    attention.q_proj.weight.copy_(looked_for)
    attention.k_proj.weight.copy_(looked_for @ turn.T)
    attention.q_norm.weight.fill_(_SHARPNESS)


def _pass_on(attention: Any, through: torch.Tensor) -> None:
    """All heads together write `through` times what they read."""
    reading = torch.nn.init.orthogonal_(torch.empty_like(through)) * _CARRY**0.5
    attention.v_proj.weight.copy_(reading)
    attention.o_proj.weight.copy_(through @ reading.T)


def optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate / 2, betas=(0.9, 0.98), weight_decay=0.0),
    ]
