"""Kept KV caches of the in-process model: the same answers, fewer tokens computed, nobody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lightmem_engine.kv import files as kv_files
from lightmem_engine.kv import keys
from lightmem_engine.kv.index import Row
from lightmem_engine.kv.match import find_places
from lightmem_engine.models import attend
from lightmem_engine.models.kv_bytes import export, layout_of, restore
from lightmem_engine.models.kv_fingerprint import fingerprint_of
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.types import Prompt
from tests.models import tiny_qwen
from tests.models.keeping import CHUNK, OWNER, Slow, ask, count_forward, keeping, settle
from tests.models.test_prefix_cache import tokens_in

MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": "Remember what Caroline said about Boston and Denver. " * 3},
    {"role": "user", "content": "Where is the quick brown fox?"},
)


def prompt(*more: dict[str, Any], salt: str = "ann") -> Prompt:
    return Prompt((*MESSAGES, *more), salt=salt, owner=OWNER)


@pytest.fixture(params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny_qwen.save(tmp_path / "model", request.param)


@pytest.fixture
async def model(folder: Path) -> AsyncIterator[QwenModel]:
    model = QwenModel.load(str(folder), cache_bytes=0)
    yield model
    await model.aclose()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1])
def test_a_cache_comes_back_to_the_bit_and_goes_on_alike(tmp_path: Path, length: int, dtype: torch.dtype) -> None:
    raw: Any = AutoModelForCausalLM.from_pretrained(str(tiny_qwen.save(tmp_path)), dtype=dtype).eval()
    layout = layout_of(raw)
    ids = torch.arange(5, 5 + length + 1)[None] % 300
    with torch.inference_mode():
        cache = raw(input_ids=ids[:, :length], use_cache=True).past_key_values
        payloads = []
        for start in range(0, length, CHUNK):
            size = min(CHUNK, length - start)
            content = kv_files.blank(
                keys.Span(b"k" * 32, b"p" * 32, start, keys.as_tokens([1] * size)), b"f" * 32, size * layout.token_bytes
            )
            payload = content[len(content) - size * layout.token_bytes :]
            export(layout, cache, start, payload)
            payloads.append((start, payload))
        again = restore(layout, None, 0, payloads, length, "cpu")
        for mine, theirs in zip(again.layers, cache.layers, strict=True):
            assert torch.equal(mine.keys, theirs.keys)
            assert torch.equal(mine.values, theirs.values)
        cold = raw(input_ids=ids).logits[0, -1]
        warm = raw(input_ids=ids[:, length:], past_key_values=cache).logits[0, -1]
        restored = raw(input_ids=ids[:, length:], past_key_values=again).logits[0, -1]
    assert torch.equal(warm, restored)
    if dtype is torch.float32:
        assert torch.allclose(cold, restored, atol=1e-4)
        assert cold.argmax() == restored.argmax()


async def test_after_a_restart_only_the_rest_is_computed_and_the_answer_is_the_same(
    folder: Path, model: QwenModel, tmp_path: Path
) -> None:
    following = prompt({"role": "assistant", "content": "Denver."}, {"role": "user", "content": "And Caroline?"})
    expected = [(await ask(model, one)).text for one in (prompt(), following)]
    async with keeping(model, tmp_path / "kv") as (_, binder):
        assert (await ask(model, prompt())).text == expected[0]
    (offer,) = binder.bound
    again = QwenModel.load(str(folder), cache_bytes=0)
    async with keeping(again, tmp_path / "kv") as (tier, _):
        counts = count_forward(again)
        answer = await ask(again, following)
        assert answer.text == expected[1]
        assert answer.usage.cached_tokens == len(offer.tokens) > 40
        assert counts[0] == answer.usage.prompt_tokens - len(offer.tokens)
        assert set(counts[1:]) <= {1}
        assert tier.store.counters.get("hit_tokens") == len(offer.tokens)
    await again.aclose()


async def test_what_is_kept_in_memory_is_not_read_from_the_disk(folder: Path, tmp_path: Path) -> None:
    model = QwenModel.load(str(folder), cache_bytes=1 << 20)
    async with keeping(model, tmp_path / "kv") as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        await ask(model, prompt())
        assert tier.store.counters.get("hits") == 0
        await model.forget()
        assert (await ask(model, prompt())).usage.cached_tokens > 40
        assert tier.store.counters.get("hits") == 1
    await model.aclose()


async def test_memory_and_disk_together_make_one_prefix(folder: Path, tmp_path: Path) -> None:
    """The front lies in memory, more of it on the disk: only what is missing is read."""
    model = QwenModel.load(str(folder), cache_bytes=1 << 20)
    async with keeping(model, tmp_path / "kv") as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        await model.forget()
        front = Prompt(({**MESSAGES[0], "content": MESSAGES[0]["content"][:60]},), salt="ann")
        await ask(model, front)
        before = tier.store.counters.get("bytes_read")
        answer = await ask(model, prompt())
        assert answer.text == (await ask(QwenModel.load(str(folder)), prompt())).text
        read = tier.store.counters.get("bytes_read") - before
        assert 0 < read < tier.store.index.used()
    await model.aclose()


async def test_another_user_finds_nothing(model: QwenModel, tmp_path: Path) -> None:
    async with keeping(model, tmp_path / "kv") as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        assert (await ask(model, prompt(salt="bob"))).usage.cached_tokens == 0
        assert (await ask(model, prompt(salt=""))).usage.cached_tokens == 0
        await settle(model, tier)
        assert (await ask(model, prompt())).usage.cached_tokens > 0


async def test_memory_is_shared_with_nobody_either(folder: Path) -> None:
    model = QwenModel.load(str(folder), cache_bytes=1 << 20)
    await ask(model, prompt())
    assert (await ask(model, prompt(salt="bob"))).usage.cached_tokens == 0
    assert (await ask(model, prompt())).usage.cached_tokens > 0
    await model.aclose()


async def test_a_conversation_that_goes_on_differently_uses_the_part_that_is_the_same(
    model: QwenModel, tmp_path: Path
) -> None:
    other = Prompt((MESSAGES[0], {"role": "user", "content": "Where is the quick red hen?"}), salt="ann", owner=OWNER)
    expected = (await ask(model, other)).text
    async with keeping(model, tmp_path / "kv") as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        answer = await ask(model, other)
        assert answer.text == expected
        (_, begin) = tier, keys.root("ann", tier.fingerprint)
        ids = keys.as_tokens(model._encode(other))
        places = find_places(tier.store, begin, ids, CHUNK)
        assert answer.usage.cached_tokens > 40
        assert places[-1].start + places[-1].take >= answer.usage.cached_tokens


async def test_a_damaged_file_is_computed_and_the_answer_stays_right(model: QwenModel, tmp_path: Path) -> None:
    expected = (await ask(model, prompt())).text
    async with keeping(model, tmp_path / "kv") as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        for path in tier.store.files.chunks.rglob("*.kv"):
            data = bytearray(path.read_bytes())
            data[-5] ^= 4
            path.write_bytes(data)
        answer = await ask(model, prompt())
        assert (answer.text, answer.usage.cached_tokens) == (expected, 0)
        assert tier.store.counters.get("verification_failures", "digest") == 1


async def test_without_the_check_a_damaged_file_changes_the_answer(
    model: QwenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is the check that keeps wrong bytes out."""
    async with keeping(model, tmp_path / "kv") as (tier, _):
        expected = (
            await ask(
                model,
                prompt(),
            )
        ).text
        await settle(model, tier)
        expected_digest = {}
        for key, _, _, _ in tier.store.index.all():
            found = tier.store.index.ready(key)
            assert found is not None
            path = tier.store.files.path(key)
            data = bytearray(path.read_bytes())
            data[-4000:] = bytes(4000)
            path.write_bytes(data)
            expected_digest[kv_files.digest(bytes(data))] = found[0].digest
        real = kv_files.digest
        monkeypatch.setattr(kv_files, "digest", lambda content: expected_digest.get(real(content), b""))
        assert (await ask(model, prompt())).text != expected


def test_other_weights_of_the_same_shape_are_another_model(tmp_path: Path) -> None:
    models = [
        QwenModel.load(str(tiny_qwen.save(tmp_path / f"{kind}{seed}", kind, seed)))
        for kind in ("qwen2", "qwen3")
        for seed in (0, 1)
    ]
    found = [fingerprint_of(one._model, one._tokenizer, CHUNK) for one in models]
    raw: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path / "qwen20"))
    attend.use(raw)
    assert fingerprint_of(raw, models[0]._tokenizer, CHUNK) == found[0], "however the weights are laid out"
    found.append(fingerprint_of(raw, models[0]._tokenizer, 2 * CHUNK))
    with torch.no_grad():
        raw.model.rotary_emb.inv_freq.mul_(1.5)
    found.append(fingerprint_of(raw, models[0]._tokenizer, CHUNK))
    with torch.no_grad():  # what an adapter merged into the weights does
        raw.model.layers[1].self_attn.q_proj.weight.add_(1e-3)
    found.append(fingerprint_of(raw, models[0]._tokenizer, CHUNK))
    raw.config._attn_implementation = "eager"
    found.append(fingerprint_of(raw, models[0]._tokenizer, CHUNK))
    found.append(fingerprint_of(raw.to(torch.bfloat16), models[0]._tokenizer, CHUNK))
    found.append(fingerprint_of(raw, models[0]._tokenizer, CHUNK, "int8"))
    assert len(set(found)) == len(found) == 10


async def test_a_cache_of_other_weights_is_never_found(tmp_path: Path) -> None:
    first, second = (QwenModel.load(str(tiny_qwen.save(tmp_path / str(seed), seed=seed))) for seed in (0, 1))
    async with keeping(first, tmp_path / "kv"):
        await ask(first, prompt())
    async with keeping(second, tmp_path / "kv") as (tier, _):
        assert tier.store.index.counts()["ready"] > 0
        assert (await ask(second, prompt())).usage.cached_tokens == 0
    await first.aclose()
    await second.aclose()


async def test_what_has_ended_is_not_written(model: QwenModel, tmp_path: Path) -> None:
    async with keeping(model, tmp_path / "kv") as (tier, binder):
        binder.stand = False
        await ask(model, prompt())
        await settle(model, tier)
        assert tier.store.counters.get("stores_skipped", "ended") == 1
        assert tier.store.counters.get("bytes_written") == 0


async def test_short_prompts_and_anonymous_ones_are_not_kept(model: QwenModel, tmp_path: Path) -> None:
    async with keeping(model, tmp_path / "kv", min_tokens=1000) as (tier, _):
        await ask(model, prompt())
        await ask(model, replace(prompt(), owner=None))
        await settle(model, tier)
        assert tier.store.counters.get("stores_skipped", "short") == 1
        assert tier.store.counters.get("stores") == 0


async def test_a_load_that_cannot_pay_is_skipped(model: QwenModel, tmp_path: Path) -> None:
    rates = Slow(tokens=1.0, bytes=1e12)
    async with keeping(model, tmp_path / "kv", rates=rates) as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        rates.loaded(1, 1e6)
        assert (await ask(model, prompt())).usage.cached_tokens == 0
        assert tier.store.counters.get("loads_skipped") == 1


async def test_an_overdue_load_is_abandoned_and_the_next_one_knows(
    model: QwenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (await ask(model, prompt())).text
    rates = Slow(tokens=2000.0, bytes=1e12)
    async with keeping(model, tmp_path / "kv", rates=rates) as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)

        stuck = threading.Event()

        def hang(self: Any, handle: int, view: memoryview) -> int:
            stuck.wait(60)
            raise OSError("too late anyway")

        monkeypatch.setattr(kv_files.ChunkFiles, "_read_into", hang)
        answer = await ask(model, prompt())
        stuck.set()
        assert (answer.text, answer.usage.cached_tokens) == (expected, 0)
        assert tier.store.counters.get("deadline_misses") >= 1


async def test_many_who_want_the_same_share_one_load(
    model: QwenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(model, tmp_path / "kv") as (tier, _):
        await ask(model, prompt())
        await settle(model, tier)
        asked, reads, everybody = 0, list[int](), threading.Event()
        load, read = tier._load, tier.store.read

        async def asking(rows: list[Row], deadline: float) -> Any:
            nonlocal asked
            asked += 1
            if asked == 50:
                everybody.set()
            return await load(rows, deadline)

        def counted(rows: list[Row], deadline: float) -> Any:
            reads.append(1)
            assert everybody.wait(60)
            return read(rows, deadline)

        monkeypatch.setattr(tier, "_load", asking)
        monkeypatch.setattr(type(tier.store), "read", lambda _, rows, deadline: counted(rows, deadline))
        ids = model._encode(prompt())
        found = await asyncio.gather(*(tier.fetch(ids, "ann", 0) for _ in range(50)))
        assert len(reads) == 1
        assert {one.num_tokens for one in found if one} == {found[0].num_tokens if found[0] else 0}
        assert all(found)


async def test_a_prompt_read_ahead_is_kept_for_its_owner(model: QwenModel, tmp_path: Path) -> None:
    async with keeping(model, tmp_path / "kv") as (tier, binder):
        beside = Prompt((MESSAGES[0], {"role": "user", "content": "Something else entirely"}))
        shared = await model.prefill(prompt(), beside, 5)  # type: ignore[arg-type]
        await settle(model, tier)
        assert [len(offer.tokens) for offer in binder.bound] == [shared]
        assert (await ask(model, prompt())).usage.cached_tokens == shared


def test_a_restored_cache_is_a_private_one() -> None:
    from tests.models.test_prefix_cache import cache_of

    layout = layout_of(_Shape)
    cache = cache_of([1, 2, 3])
    payload = np.empty(3 * layout.token_bytes, np.uint8)
    export(layout, cache, 0, payload)
    again = restore(layout, None, 0, [(0, payload)], 2, "cpu")
    again.layers[1].keys.zero_()
    assert tokens_in(restore(layout, None, 0, [(0, payload)], 3, "cpu")) == [1, 2, 3]


class _Config:
    head_dim = 4
    num_hidden_layers = 2
    num_key_value_heads = 1


class _Shape:
    config = _Config
    dtype = torch.float32
