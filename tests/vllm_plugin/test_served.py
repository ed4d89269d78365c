"""A chat through `serve` inside vLLM: the attention that segmentation goes by is the serving model's own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.models.window_pass import shares
from tests.support.turn_rows import truth
from tests.support.vllm_server import FAST, HAS_VLLM, NO_VLLM, VllmServer
from tests.support.vllm_talk import ask, native

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_VLLM, reason=NO_VLLM)]

SETTINGS = ("embedder.stub=true", "classifier.source=served", "extract.mode=extractive", "sleep.mode=rules")
PLAIN = ("chat.budget_ms=60000", "chat.top_k=0", "block.max_tokens=0")  # prompts hold what was said and nothing else
STEPS = ("--max-num-batched-tokens", "64", "--max-num-seqs", "8", "--dtype", "float32")
SAID = (
    "My sister Maja moved to Lisbon in May, and my brother Jonas works in Oslo as a nurse. I have a cat named Miso, my "
    "favourite colour is green, and on Fridays I play chess with my neighbour Carla, who comes from Chile.",
    "And where does my sister live, and what does my brother do on Fridays, if he does not play chess with Carla?",
    "What is my cat called?",
)


def test_segmentation_goes_by_what_the_serving_model_attends_to(tmp_path: Path) -> None:
    history: list[dict[str, Any]] = []
    with VllmServer(tmp_path, *FAST, *STEPS, settings=(*SETTINGS, *PLAIN)) as vllm:
        cached = []
        for said in SAID:
            history.append({"role": "user", "content": said})
            answer = ask(vllm, history, "ann", session="s")
            assert answer.memory is not None
            assert answer.memory["degraded"] is None
            cached.append(answer.prompt_tokens)
            history.append({"role": "assistant", "content": answer.text})
        stored = _sensed(vllm, len(history))
        for trouble in ("could not be told", "not found in time", "is not looked at"):
            assert trouble not in vllm.text()
    folder = packaged_micro_qwen().directory
    words: Any = AutoTokenizer.from_pretrained(folder)
    layers = json.loads((folder / "config.json").read_text("utf-8"))["num_hidden_layers"]
    last_third = range(layers - max(1, layers // 3), layers)
    for turn in (2, 4):
        ids = words.apply_chat_template(
            history[: turn + 1], add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=True
        )["input_ids"]
        assert len(ids) == cached[turn // 2]
        contents = [message["content"] for message in history[: turn + 1]]
        attention, mass = shares(truth(folder, ids, contents, last_third))
        found = stored[history[turn]["content"]]
        np.testing.assert_allclose(found, [attention[turn], mass[turn]], rtol=1e-3, atol=1e-5)


def _sensed(vllm: VllmServer, count: int) -> dict[str, tuple[float, float]]:
    """Attention and mass of each message, by its words, once all of them have been sensed."""
    deadline = time.monotonic() + 120
    while True:
        rows = [json.loads(line) for line in native(vllm, "GET", "/v1/memory/export").text.splitlines()]
        words = {row["id"]: row["content"] for row in rows if row["type"] == "message"}
        found = {words[row["message"]]: (row["attention"], row["mass"]) for row in rows if row["type"] == "sensed"}
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
