"""A Qwen3 checkpoint that gives one answer to whatever it is asked: for tests of what is computed, not of what is said.

Keys and values are those of real layers over the whole prompt; only, the layers add nothing to the last token, and the
head names what follows that token in the answer.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.models import tiny_qwen

ANSWER = '{"facts":[{"source":1,"fact":"Caroline lives in Denver."}]}'


def save(folder: Path, context: int = 8192) -> Path:
    """Write the checkpoint."""
    words = tiny_qwen.tokenizer()
    config = Qwen3Config(
        vocab_size=len(words) + 9,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context,
        initializer_range=0.4,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config)
    opened = words.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    begun = words(opened, add_special_tokens=False)["input_ids"][-1]
    said = [begun, *words(ANSWER, add_special_tokens=False)["input_ids"], words.eos_token_id]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedded = model.model.embed_tokens.weight
        known = sorted(set(said))
        basis, _ = torch.linalg.qr(torch.randn(128, len(known)))
        embedded[known] = basis.T.contiguous()
        model.lm_head.weight.zero_()
        for place, (token, following) in enumerate(pairwise(said)):
            # Where a token stands twice in the answer, what follows it first counts for a little more.
            model.lm_head.weight[following] += embedded[token] * (1 - place / 1000)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
