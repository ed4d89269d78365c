"""Attention of a decoder of transformers: torch's own, but for a few queries over many keys on a CPU.

A prompt whose front was cached, and every answer, is that case. torch's kernel is made for many queries: in bfloat16 it
takes twice to three times as long as two products and a softmax. Nor are the keys repeated there for the heads that
share them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "lightmem"
FEW = 64  # queries; with more torch's kernel catches up
_SOME = 16  # with fewer its kernel is as quick in bfloat16, too


def use(model: Any) -> None:
    """Have a model attend by `attend`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """query [batch, heads, queries, d], key and value [batch, key heads, keys, d], mask bool [batch or 1, 1, queries,
    keys]; to [batch, queries, heads, d], as transformers wants it."""
    queries = query.shape[2]
    if not _is_ours(query, attention_mask):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    batch, heads, _, width = query.shape
    shared = heads // key.shape[1]
    packed = query.reshape(batch, key.shape[1], shared * queries, width)
    scale = width**-0.5 if scaling is None else scaling
    if attention_mask is not None and query.dtype is torch.bfloat16 and queries >= _SOME:
        scores = torch.matmul(packed, key.transpose(2, 3)).float().mul_(scale)
        by_head = scores.view(batch, key.shape[1], shared, queries, -1)
        by_head.masked_fill_(~attention_mask[:, :, None], float("-inf"))
        out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
    else:
        mask = None if attention_mask is None else attention_mask.repeat(1, 1, shared, 1)
        out = F.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
    return out.view(batch, heads, queries, width).transpose(1, 2).contiguous(), None


def _is_ours(query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether the queries are few, and the mask plain; one query alone needs none."""
    queries = query.shape[2]
    if query.device.type != "cpu" or queries > FEW:
        return False
    if mask is None:
        return queries == 1
    return mask.dtype is torch.bool and mask.shape[1] == 1
