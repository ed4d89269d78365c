"""What is made of the steps of a model server, without one: pages, chunks, cached prefixes, preemption, lost steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightmem_engine.vllm_plugin.attention.capture import Capture, Seen, refusal
from lightmem_engine.vllm_plugin.attention.page_layout import PageLayout
from lightmem_engine.vllm_plugin.attention.plan import Look, Turns
from lightmem_kernels import segment_attention

BLOCK, HEADS, KEY_HEADS, WIDTH, LAYERS = 4, 4, 2, 8, (0, 2)


class Impl:
    """A backend whose pages are packed so that nobody could guess: keys of a head by columns, behind the values."""

    scale = WIDTH**-0.5
    sliding_window = -1

    def __init__(self, *, is_packed: bool) -> None:
        self.is_packed = is_packed

    def do_kv_cache_update(self, _: Any, key: torch.Tensor, value: torch.Tensor, cache: Any, slots: Any) -> None:
        """Write tokens into slots."""
        for token, slot in enumerate(slots.tolist()):
            block, row = divmod(slot, BLOCK)
            for head in range(key.shape[1]):
                page = cache[block, head].view(-1)
                places = torch.arange(WIDTH)
                if self.is_packed:
                    page[BLOCK * WIDTH + places * BLOCK + row] = key[token, head]
                    page[row * WIDTH + places] = value[token, head]
                else:
                    page[row * 2 * WIDTH + places] = key[token, head]
                    page[row * 2 * WIDTH + WIDTH + places] = value[token, head]


class Engine:
    """One request in a paged cache, computed step by step; beside it another one whose rows are nobody's business."""

    def __init__(self, num_tokens: int, *, is_packed: bool = True) -> None:
        torch.manual_seed(0)
        self.impl = Impl(is_packed=is_packed)
        self.q = torch.randn(len(LAYERS), num_tokens, HEADS, WIDTH)
        self.k = torch.randn(len(LAYERS), num_tokens, KEY_HEADS, WIDTH)
        self.segments = torch.arange(num_tokens) // 5 - 1
        self.blocks = torch.randperm(20)[: -(-num_tokens // BLOCK)]
        self.caches = [torch.zeros(20, KEY_HEADS, BLOCK, 2 * WIDTH) for _ in LAYERS]
        texts = tuple(f"turn {i}" for i in range(int(self.segments.max()) + 1))
        self.turns = Turns(texts, self.segments.numpy())
        self.is_told = False
        for layer, cache in enumerate(self.caches):
            self._write(layer, cache, 0, num_tokens)

    def _write(self, layer: int, cache: torch.Tensor, start: int, end: int) -> None:
        keys = self.k[layer, start:end]
        self.impl.do_kv_cache_update(None, keys, torch.zeros_like(keys), cache, self._slots(start, end))

    def _slots(self, start: int, end: int) -> torch.Tensor:
        places = torch.arange(start, end)
        return self.blocks[places // BLOCK] * BLOCK + places % BLOCK

    def step(self, capture: Capture, start: int, end: int, layers: Sequence[int] = LAYERS) -> list[Seen]:
        """Compute tokens [start, end)."""
        slot = int(self._slots(start, start + 1))
        turns = None if self.is_told else self.turns
        self.is_told = True
        capture.begin([Look("r", slot, start, end - start, turns, end == len(self.segments))])
        stranger = 3
        metadata = SimpleNamespace(
            query_start_loc=torch.tensor([0, stranger, stranger + end - start]),
            slot_mapping=torch.cat([torch.tensor([900, 901, 902]), self._slots(start, end)]),
            block_table=torch.stack([torch.zeros_like(self.blocks), self.blocks]),
        )
        for place, layer in enumerate(LAYERS):
            query = torch.cat([torch.randn(stranger, HEADS, WIDTH), self.q[place, start:end]])
            if layer in layers:
                named = SimpleNamespace(layer_name=f"model.layers.{layer}.self_attn.attn")
                capture.look(self.impl, named, query, self.caches[place], metadata)
        other = SimpleNamespace(layer_name="model.layers.1.self_attn.attn")
        capture.look(self.impl, other, query, self.caches[0], metadata)
        return capture.end()

    def truth(self) -> Any:
        """[n, 3] in one go."""
        bounds = torch.tensor([0, len(self.segments)])
        total = sum(
            segment_attention(q, k, None, self.segments, self.segments, bounds, bounds, causal=True, mode="adjacent")
            for q, k in zip(self.q, self.k, strict=True)
        )
        return torch.as_tensor(total)[0].numpy()


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("steps", [(0, 23), (0, 1, 23), (0, 7, 8, 20, 23)])
def test_a_prompt_in_steps_is_one_prompt(steps: tuple[int, ...], is_packed: bool) -> None:
    engine, capture = Engine(23, is_packed=is_packed), Capture(LAYERS)
    found = [seen for a, b in itertools.pairwise(steps) for seen in engine.step(capture, a, b)]
    (seen,) = found
    assert seen.texts == engine.turns.texts
    np.testing.assert_allclose(seen.rows, engine.truth(), rtol=1e-5, atol=1e-5)


def test_of_a_cached_prefix_only_turns_behind_it_are_told() -> None:
    engine, capture = Engine(23), Capture(LAYERS)
    (seen,) = engine.step(capture, 12, 23)  # in the middle of turn 1
    truth = engine.truth()
    truth[:2] = 0
    np.testing.assert_allclose(seen.rows, truth, rtol=1e-5, atol=1e-5)


def test_what_is_computed_again_after_a_preemption_counts_once() -> None:
    engine, capture = Engine(23), Capture(LAYERS)
    assert engine.step(capture, 0, 9) == []
    assert engine.step(capture, 4, 16) == []
    (seen,) = engine.step(capture, 16, 23)
    np.testing.assert_allclose(seen.rows, engine.truth(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["a layer was not shown", "a step was skipped", "the request has ended"])
def test_what_was_not_seen_whole_is_not_told(case: str) -> None:
    engine, capture = Engine(23), Capture(LAYERS)
    engine.step(capture, 0, 9, layers=LAYERS[:1] if case.startswith("a layer") else LAYERS)
    if case.startswith("the request"):
        capture.forget(["r"])
    assert engine.step(capture, 12 if case.startswith("a step") else 9, 23) == []


def test_without_a_request_that_asks_nothing_is_touched() -> None:
    capture = Capture(LAYERS)
    capture.begin([])
    nothing: Any = None
    capture.look(nothing, nothing, nothing, nothing, nothing)
    assert capture.end() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_page_is_read_as_it_is_written(dtype: torch.dtype) -> None:
    impl = Impl(is_packed=True)
    cache = torch.zeros(6, KEY_HEADS, BLOCK, 2 * WIDTH, dtype=dtype)
    layout = PageLayout.learn(impl, None, cache)
    keys = torch.randn(10, KEY_HEADS, WIDTH).to(dtype)
    blocks = torch.tensor([4, 0, 5, 1], dtype=torch.int32)
    slots = torch.tensor([int(blocks[i // BLOCK]) * BLOCK + i % BLOCK for i in range(10)])
    impl.do_kv_cache_update(None, keys, torch.ones_like(keys), cache, slots)
    assert torch.equal(layout.keys(cache, blocks, 10), keys)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("sliding_window", (127, 0), "window"),
        ("logits_soft_cap", 30.0, "capped"),
        ("alibi_slopes", torch.ones(4), "bias"),
        ("sinks", torch.ones(4), "sinks"),
    ],
)
def test_attention_of_another_kind_is_left_alone(name: str, value: Any, reason: str) -> None:
    engine, capture = Engine(23), Capture(LAYERS)
    setattr(engine.impl, name, value)
    assert engine.step(capture, 0, 23) == []
    assert reason in refusal(engine.impl, engine.q[0], engine.caches[0])
    assert "other numbers" in refusal(engine.impl, engine.q[0].half(), engine.caches[0])
