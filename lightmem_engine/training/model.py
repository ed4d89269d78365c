"""The micro model: its sizes, where its weights begin, and what moves them.

The first weights are those of a model that copies badly rather than not at all. What the tasks need first is
induction: find what stood before like the present token, and say what followed it. A head that carries each token to
its successor and heads that match like with like are that circuit; chance needs thousands of steps to find it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config

_CARRY = 0.03  # how strongly a head writes what it reads; embeddings begin at 0.02
_NUM_PREVIOUS = 3  # heads of the first layer that look one token back
_SHARP = 6  # rotary pairs, the fastest ones, by which they tell that place from others
_ROTARY_BASE = 10000.0


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
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def begin_as_copier(model: Any, heads: int) -> None:
    """Set the attention weights, in place: all heads match like with like and pass on what they read; some heads of
    the first layer look at the token before. As many key heads as query heads are assumed."""
    hidden = model.config.hidden_size
    common = torch.where(torch.rand(hidden) < 0.5, -1.0, 1.0)
    # The same vector in every embedding lets a head attend by place alone; in the logits it changes nothing.
    model.model.embed_tokens.weight += 0.02 * common
    for layer in model.model.layers:
        attention = layer.self_attn
        matching = torch.nn.init.orthogonal_(torch.empty(hidden, hidden))
        attention.q_proj.weight.copy_(matching)
        attention.k_proj.weight.copy_(matching)
        reading = torch.nn.init.orthogonal_(torch.empty(hidden, hidden)) * _CARRY**0.5
        attention.v_proj.weight.copy_(reading)
        attention.o_proj.weight.copy_(reading.T)
    _look_back(model.model.layers[0].self_attn, common, hidden // heads, min(_NUM_PREVIOUS, heads))


def _look_back(attention: Any, common: torch.Tensor, head_dim: int, num_heads: int) -> None:
    """Keys turned by one place against queries: the product is largest where the key is one token earlier."""
    half = head_dim // 2
    pairs = torch.arange(min(_SHARP, half))
    angles = _ROTARY_BASE ** (-pairs / half)
    query, key = torch.zeros(head_dim), torch.zeros(head_dim)
    query[pairs] = 1.0
    key[pairs], key[pairs + half] = angles.cos(), angles.sin()
    toward = common / common.norm()
    rows = slice(0, num_heads * head_dim)
    attention.q_proj.weight[rows] = 0.1 * attention.q_proj.weight[rows] + torch.outer(query.repeat(num_heads), toward)
    attention.k_proj.weight[rows] = 0.1 * attention.k_proj.weight[rows] + torch.outer(key.repeat(num_heads), toward)


def optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
