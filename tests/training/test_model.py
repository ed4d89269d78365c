"""The first weights copy: a token seen before is followed by what followed it, before any training."""

import random
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from lightmem_engine.training import tokenizer as tokenizers
from lightmem_engine.training.encode import Encoder, stack
from lightmem_engine.training.model import begin_as_copier, configuration
from lightmem_engine.training.trainer import learn


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizers.build("1", size=600, num_examples=60)


def untrained(words: Any) -> Any:
    torch.manual_seed(1)
    model: Any = Qwen3ForCausalLM(configuration(words, hidden=192, layers=3, heads=6, inner=64, context=256))
    return model


def copied(model: Any, words: Any) -> float:
    """Share of repeated tokens foretold."""
    encoder = Encoder(words)
    batch = stack([encoder.repeated(random.Random(i)) for i in range(20)], encoder.pad)
    with torch.no_grad():
        return learn(model.eval(), batch)[1]["induction"]


def test_first_weights_copy_and_random_ones_do_not(words: Any) -> None:
    model = untrained(words)
    assert copied(model, words) < 0.05
    begin_as_copier(model)
    assert copied(model, words) > 0.3


def test_first_weights_are_seeded(words: Any) -> None:
    one, two = untrained(words), untrained(words)
    for model in (one, two):
        torch.manual_seed(2)
        begin_as_copier(model)
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
