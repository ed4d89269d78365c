"""Words by what a real vLLM did not see coming, against a forward of the same checkpoint in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.config_loader import load
from lightmem_engine.errors import ModelError
from lightmem_engine.loading import load_encoders
from lightmem_engine.models.checkpoint import progress_on_terminals_only
from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.models.remote_entropy import RemoteEntropyClassifier
from lightmem_engine.types import Window
from tests.support.vllm_server import VllmServer

WINDOWS = (
    Window(("My sister Maja moved to Lisbon in 2023, and my brother stays. Doesn't he?",)),
    Window(("What was said before, in M\u00fcnchen.", "The parcel weighs 7.5 kg!", "", "Send it: now"), 1),
    Window(("I am happy \U0001f600 today", "\u6211\u7684\u59b9\u59b9\u4f4f\u5728\u91cc\u65af\u672c\u3002")),
)


class Truth:
    """The cross-entropy of stretches of a window's texts, by transformers."""

    def __init__(self, texts: Sequence[str]) -> None:
        progress_on_terminals_only()
        folder = packaged_micro_qwen().directory
        words: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        found = words("\n".join(texts), return_offsets_mapping=True)
        with torch.inference_mode():
            likely = model(torch.tensor([found["input_ids"]])).logits[0].log_softmax(-1)
        costs = [0.0, *(-float(likely[i, token]) for i, token in enumerate(found["input_ids"][1:]))]
        self._tokens = list(zip(found["offset_mapping"], costs, strict=True))
        self._starts = [sum(len(text) + 1 for text in texts[:i]) for i in range(len(texts))]

    def of(self, text: int, start: int, end: int) -> float:
        """The mean of the tokens that reach into characters [start, end) of a text."""
        at = self._starts[text]
        return float(np.mean([cost for (a, b), cost in self._tokens if b > at + start and a < at + end]))


def test_a_servers_words_cost_what_they_cost_here(vllm: VllmServer) -> None:
    settings = ["classifier.source=entropy", f"lm.url={vllm.url}/v1", "lm.api_key=red-key", "embedder.stub=true"]
    classifier = load_encoders(load(settings=[*settings, "device.kind=cpu"]).config).classifier
    assert isinstance(classifier, RemoteEntropyClassifier)
    for window, scores in zip(WINDOWS, classifier.score(WINDOWS), strict=True):
        truth = Truth(window.texts)
        own = [(i, word) for i, words in enumerate(scores.words) for word in words]
        assert {i for i, _ in own} == {i for i in range(window.num_context, len(window.texts)) if window.texts[i]}
        expected = [truth.of(i, word.start, word.end) for i, word in own]
        np.testing.assert_allclose([word.keep for _, word in own], expected, rtol=1e-3, atol=2e-3)


def test_a_model_that_is_not_served_is_named(vllm: VllmServer) -> None:
    with pytest.raises(ModelError, match=r"entropy\(another\): 404"):
        RemoteEntropyClassifier(f"{vllm.url}/v1", "another", api_key="red-key").score(WINDOWS[:1])
