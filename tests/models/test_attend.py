"""Few queries over many keys: the same attention as torch's own, and the same model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lightmem_engine.models import attend
from tests.models import tiny_qwen

KEYS = 90


def shapes(queries: int, heads: int, key_heads: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(queries)
    room = torch.randn(2, 1, key_heads, KEYS + 7, 16, dtype=dtype)  # as a cache with room has them: not contiguous
    mask = torch.ones(1, 1, queries, KEYS, dtype=torch.bool).tril(KEYS - queries)
    return torch.randn(1, heads, queries, 16, dtype=dtype), room[0, :, :, :KEYS], room[1, :, :, :KEYS], mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 2, 15, 16, 33, attend.FEW, attend.FEW + 1])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_it_is_attention(dtype: torch.dtype, queries: int, heads: tuple[int, int]) -> None:
    query, key, value, mask = shapes(queries, *heads, dtype)
    module = SimpleNamespace(num_key_value_groups=heads[0] // heads[1], is_causal=True)
    given = None if queries == 1 else mask
    mine, _ = attend.attend(module, query, key, value, given, scaling=0.3)
    wide = [tensor.repeat_interleave(heads[0] // heads[1], 1).double() for tensor in (key, value)]
    scores = (query.double() @ wide[0].transpose(2, 3) * 0.3).masked_fill(~mask, float("-inf"))
    expected = (scores.softmax(-1) @ wide[1]).transpose(1, 2)
    theirs, _ = sdpa_attention_forward(module, query, key, value, given, scaling=0.3)
    assert mine.shape == theirs.shape == expected.shape
    if dtype is torch.float32:
        torch.testing.assert_close(mine.double(), expected, atol=1e-5, rtol=1e-5)
    else:
        assert (mine.double() - expected).abs().mean() <= 3 * (theirs.double() - expected).abs().mean() + 1e-4


def test_a_mask_is_obeyed_whatever_it_is() -> None:
    query, key, value, mask = shapes(20, 4, 2, torch.bfloat16)
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    narrow = mask & ~mask.roll(5, -1).tril(KEYS - 40)
    before, _ = attend.attend(module, query, key, value, narrow)
    hidden = (~narrow).all(dim=2)[0, 0]
    value[:, :, hidden] = 1e4
    after, _ = attend.attend(module, query, key, value, narrow)
    assert hidden.any()
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_model_reads_alike_with_it(kind: Literal["qwen2", "qwen3"], tmp_path: Path) -> None:
    folder = str(tiny_qwen.save(tmp_path, kind))
    mine, theirs = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    attend.use(mine)
    ids = torch.arange(5, 65)[None]

    @torch.inference_mode()
    def read(model: Any) -> torch.Tensor:
        cache, logits = None, []
        for part in (ids[:, :30], ids[:, 30:50], ids[:, 50:51], ids[:, 51:]):
            output = model(input_ids=part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
        return torch.cat(logits, 1)

    torch.testing.assert_close(read(mine), read(theirs), atol=1e-4, rtol=1e-4)
