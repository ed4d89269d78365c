"""Random-weight Qwen checkpoints of a few thousand parameters, with a real tokenizer and a Qwen-style template."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

TEMPLATE = """
{%- if tools %}
{{- '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}
{%- endif %}
{%- endif %}
""".strip()
CORPUS = [
    "The quick brown fox remembers what Caroline said on 8 May 2023 about Boston and Denver.",
    '{"facts":[{"source":1,"fact":"Caroline lives in Denver."}]} system user assistant',
]


def tokenizer() -> Any:
    """A byte-level BPE tokenizer with Qwen's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    bpe.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def save(
    folder: Path,
    kind: Literal["qwen2", "qwen3"] = "qwen3",
    seed: int = 0,
    context: int = 2048,
    layers: int = 2,
    head_dim: int = 16,
) -> Path:
    """Write a checkpoint; its weights are large enough that greedy output is not one repeated token."""
    words = tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(words) + 9,  # real checkpoints pad their vocabulary
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.4,
        "eos_token_id": words.eos_token_id,
    }
    torch.manual_seed(seed)
    model: Any
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=head_dim))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
