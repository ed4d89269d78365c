"""What was read at another place is found, turned and taken; nothing that was made of it is cached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.async_memory import AsyncMemory
from lightmem_engine.errors import ConfigError
from lightmem_engine.models.prefix_cache import PrefixCache, common_prefix
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.models.shifted import COMPUTED, MIN_TAKEN, Stretch, find
from lightmem_engine.types import Prompt
from tests.models import tiny_qwen
from tests.models.keeping import OWNER, ask, count_forward, keeping, settle
from tests.models.test_prefix_cache import cache_of
from tests.support.memory import quick_config

TALK: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "Where is the quick brown fox that Caroline remembers from Boston and Denver? " * 3},
    {"role": "assistant", "content": "In Boston, where Caroline lives."},
    {"role": "user", "content": "And where was it on 8 May 2023?"},
)


def prompt(notes: str, salt: str = "ann", **more: Any) -> Prompt:
    return Prompt(({"role": "system", "content": notes}, *TALK), salt=salt, owner=OWNER, **more)


FIRST, SECOND = prompt("Caroline said that."), prompt("Caroline said on 8 May that the brown fox remembers Denver.")


@pytest.fixture(params=["qwen2", "qwen3"])
async def model(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QwenModel]:
    model = QwenModel.load(str(tiny_qwen.save(tmp_path / "model", request.param)), cache_bytes=1 << 24)
    yield model
    await model.aclose()


async def test_only_what_is_new_and_a_few_tokens_are_computed(model: QwenModel, tmp_path: Path) -> None:
    model.reuse_approximately()
    async with keeping(model, tmp_path / "kv") as (tier, binder):
        await ask(model, FIRST)
        await settle(model, tier)
        assert len(binder.bound) == 1
        held = len(model._cache)
        counts = count_forward(model)
        answer = await ask(model, SECOND)
        await settle(model, tier)
        first, second = model._encode(FIRST), model._encode(SECOND)
        start = common_prefix(first, second)
        stretch = common_prefix(first[::-1], second[::-1])  # up to the last token, which is always computed
        taken = stretch - 1 - COMPUTED
        assert taken >= MIN_TAKEN
        assert answer.usage.cached_tokens == start + taken
        assert sum(counts[:2]) == len(second) - start - taken, "before the stretch and behind it"
        assert counts[1] == 1
        assert set(counts[2:]) <= {1}
        assert tier.store.counters.get("approximate_tokens") == taken
        assert len(binder.bound) == 1, "what is not exact is not kept"
        assert len(model._cache) == held, "nor held in memory"


async def test_a_prompt_that_goes_on_is_exact(model: QwenModel, tmp_path: Path) -> None:
    plain = [(await ask(model, FIRST)).text]
    following = replace(FIRST, messages=(*FIRST.messages, {"role": "assistant", "content": "Denver."}, TALK[2]))
    plain.append((await ask(model, following)).text)
    await model.forget()
    model.reuse_approximately()
    async with keeping(model, tmp_path / "kv") as (tier, _):
        assert [(await ask(model, one)).text for one in (FIRST, following)] == plain
        assert tier.store.counters.get("approximate_tokens") == 0
        assert len(model._cache) == 1


@pytest.mark.parametrize("other", ["off", "salt", "schema"])
async def test_without_its_switch_of_another_user_or_for_memory_all_is_computed(model: QwenModel, other: str) -> None:
    known = {"salt": "bob"} if other == "salt" else {"schema": {"type": "integer"}} if other == "schema" else {}
    second = replace(SECOND, **known)
    expected = await ask(model, second)
    await model.forget()
    if other != "off":
        model.reuse_approximately()
    await ask(model, FIRST)
    found = await ask(model, second)
    assert found.text == expected.text
    shared = common_prefix(model._encode(FIRST), model._encode(second))
    assert found.usage.cached_tokens == (0 if other == "salt" else shared)


async def test_in_the_first_layer_it_is_what_would_have_been_computed(model: QwenModel) -> None:
    model.reuse_approximately()
    rotation = model.rotation
    assert rotation is not None
    first, second = model._encode(FIRST), model._encode(SECOND)
    with torch.inference_mode():
        stored, whole = (
            model._model(input_ids=torch.tensor([ids]), use_cache=True).past_key_values for ids in (first, second)
        )
        stretch = find(np.array(second), common_prefix(first, second), np.array(first), stored)
        assert stretch is not None
        cut = model._model(input_ids=torch.tensor([second[: stretch.start + COMPUTED]]), use_cache=True).past_key_values
        stretch.copy_into(cut, rotation)
    for mine, theirs in ((cut.layers[0].keys, whole.layers[0].keys), (cut.layers[0].values, whole.layers[0].values)):
        assert mine.shape[2] == stretch.stop
        assert torch.allclose(mine, theirs[:, :, : stretch.stop], atol=1e-4)
    assert not torch.allclose(cut.layers[1].keys, whole.layers[1].keys[:, :, : stretch.stop], atol=1e-2)


async def test_a_model_that_cannot_be_turned_stops_the_start(tmp_path: Path) -> None:
    folder = tiny_qwen.save(tmp_path / "model")
    path = folder / "config.json"
    found = path.read_text("utf-8")
    assert '"rope_type": "default"' in found
    path.write_text(found.replace('"rope_type": "default"', '"rope_type": "dynamic", "factor": 2.0'), "utf-8")
    options = {"lm.model": str(folder), "kv.reuse": "approximate"}
    with pytest.raises(ConfigError, match="rotary embedding of type dynamic"):
        async with AsyncMemory(quick_config(tmp_path / "data", **options)):
            pass
    with pytest.raises(ConfigError, match="for a model in this process"):
        async with AsyncMemory(quick_config(tmp_path / "other", **{"kv.reuse": "approximate"})):
            pass


def test_the_longest_stretch_of_any_prompt_of_the_user_is_taken() -> None:
    cache = PrefixCache(1 << 20)
    rng = np.random.default_rng(0)
    long, short = rng.integers(0, 300, 200).tolist(), rng.integers(0, 300, 120).tolist()
    cache.put([1, *short], cache_of([1, *short]), "ann")
    cache.put([2, *long], cache_of([2, *long]), "ann")
    cache.put([3, *long, *short], cache_of([3, *long, *short]), "bob")
    wanted = [5, 5, 5, *short, 6, *long, 7]
    found = cache.shifted(wanted, "ann", 1)
    assert found is not None
    assert (found.start, found.stop, found.source) == (124, 324, 1)
    assert cache.shifted(wanted, "zoe", 0) is None
    assert cache.shifted([9, *short[:70], 9], "ann", 0) is None, "too short to be worth it"


@given(st.data())
def test_a_stretch_is_the_same_tokens_and_leaves_one(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    alphabet = data.draw(st.sampled_from([1, 2, 50, 10_000]))
    shared = rng.integers(0, alphabet, data.draw(st.integers(0, 300)))
    sides = [rng.integers(0, alphabet, data.draw(st.integers(0, 60))) for _ in range(4)]
    wanted, stored = np.concatenate((sides[0], shared, sides[1])), np.concatenate((sides[2], shared, sides[3]))
    begin = data.draw(st.integers(0, len(wanted)))
    found: Stretch | None = find(wanted, begin, stored, None)
    if found is not None:
        size = found.stop - found.start
        assert begin <= found.start
        assert found.stop < len(wanted)
        assert found.taken >= MIN_TAKEN
        assert wanted[found.start : found.stop].tolist() == stored[found.source : found.source + size].tolist()
    elif alphabet == 10_000:
        assert len(shared) + len(sides[0]) - max(begin, len(sides[0])) < MIN_TAKEN + COMPUTED + 64
