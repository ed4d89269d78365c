"""What the serving model saw while it answered, against one eager forward over the same tokens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.config_loader import load
from lightmem_engine.errors import ConfigError
from lightmem_engine.loading import load_encoders
from lightmem_engine.models import qwen_run
from lightmem_engine.models.chat_template import render
from lightmem_engine.models.decoding import TextStream
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.models.served_attention import Reader, ServedAttention, ServedClassifier
from lightmem_engine.models.stub_encoder import StubClassifier
from lightmem_engine.prompts import v1
from lightmem_engine.types import Priority, Prompt, Sampling, Window
from tests.models import tiny_qwen

QUESTION = "And where did she live in 2023?"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Caroline lives in Denver."},
    {"role": "assistant", "content": "Thank you, I will remember that."},
    {
        "role": "user",
        "content": f"{v1.memory_text(['[8 May 2023] user: likes tea'])}\n\nAnd where did she live in 2023?",
    },
]
QUESTION = "And where did she live in 2023?"


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save(tmp_path_factory.mktemp(request.param) / "tiny", request.param)


async def noted(served: ServedAttention, least: int) -> None:
    """What was seen is handed over a moment after the answer."""
    async with asyncio.timeout(60):
        while len(served) < least:
            await asyncio.sleep(0.01)


async def answers(
    folder: Path, talks: Sequence[Sequence[dict[str, str]]], served: ServedAttention, cache_bytes: int
) -> list[str]:
    model = QwenModel.load(str(folder), cache_bytes=cache_bytes, reader=Reader(served, (0, 1)))
    try:
        sampling = Sampling(max_tokens=9)
        found = []
        for talk in talks:
            before = len(served)
            (one,) = await model.generate([Prompt(tuple(talk))], sampling=sampling, priority=Priority.FOREGROUND)
            found.append(one.text)
            await noted(served, before + 1)
        return found
    finally:
        await model.aclose()


def dense(folder: Path, talk: Sequence[dict[str, str]], reply: Sequence[int]) -> np.ndarray[Any, Any]:
    """[n, 3] by summing the maps of an eager forward over the rendered talk and the reply's tokens, one by one."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    words: Any = AutoTokenizer.from_pretrained(folder)
    text = render(words, Prompt(tuple(talk)), "")
    found = words(text, return_offsets_mapping=True)
    ids = [*found["input_ids"], *reply[:-1]]  # the last token of an answer is never read
    own = [message["content"][v1.own_words(message["content"]) :] for message in talk if message["role"] != "system"]
    of = [-1] * len(found["input_ids"])
    at = 0
    for number, turn in enumerate(own):
        at = text.index(turn, at)
        for i, (start, end) in enumerate(found["offset_mapping"]):
            if end > at and start < at + len(turn):
                of[i] = number
    of += [len(own)] * (len(ids) - len(of))
    with torch.no_grad():
        maps = torch.stack(model(torch.tensor([ids]), output_attentions=True).attentions)[:, 0].sum((0, 1))
    mass = np.zeros((len(own) + 1, len(own) + 1))
    for q, i in enumerate(of):
        for k, j in enumerate(of):
            if i >= 0 and j >= 0:
                mass[i, j] += float(maps[q, k])
    n = len(mass)
    return np.array([[mass[i, i - 1] if i else 0.0, mass[i, :i].sum(), mass[i, i]] for i in range(n)])


@pytest.mark.parametrize("chunk", [512, 7])
def test_rows_equal_an_eager_forward(folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen_run, "_PREFILL_TOKENS", chunk)
    served = ServedAttention()
    written: list[int] = []
    push = TextStream.push

    def overhear(self: Any, token: int) -> str:
        written.append(token)
        return push(self, token)

    monkeypatch.setattr(TextStream, "push", overhear)
    (reply,) = asyncio.run(answers(folder, [TALK], served, 0))
    turns = [TALK[1]["content"], TALK[2]["content"], QUESTION, reply]
    assert len(written) == 9
    truth = dense(folder, TALK, written)
    for i in range(1, 4):
        found = served.find(turns[i - 1], turns[i])
        assert found is not None
        np.testing.assert_allclose(found, truth[i], rtol=2e-4, atol=1e-5)


def test_what_the_cache_spared_was_noted_when_it_was_read(folder: Path) -> None:
    """The second request reads only what is new; the rows of both together are those of a model without a cache."""
    served, fresh = ServedAttention(), ServedAttention()
    (reply,) = asyncio.run(answers(folder, [TALK[:2]], ServedAttention(), 0))
    longer = [*TALK[:2], {"role": "assistant", "content": reply}, TALK[3]]
    _, last = asyncio.run(answers(folder, [TALK[:2], longer], served, 1 << 24))
    asyncio.run(answers(folder, [longer], fresh, 0))
    turns = [TALK[1]["content"], reply, QUESTION, last]
    for previous, text in itertools.pairwise(turns[1:]):
        one, other = served.find(previous, text), fresh.find(previous, text)
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)
    assert served.find(turns[0], turns[1]) is not None, "the reply was noted while it was written"


def test_nothing_is_looked_at_but_chats_and_answers_are_the_same(folder: Path) -> None:
    served = ServedAttention()

    async def both() -> tuple[str, str]:
        plain = QwenModel.load(str(folder))
        watched = QwenModel.load(str(folder), reader=Reader(served))
        try:
            sampling = Sampling(max_tokens=20)
            prompt = Prompt(tuple(TALK))
            (one,) = await plain.generate([prompt], sampling=sampling, priority=Priority.FOREGROUND)
            (two,) = await watched.generate([prompt], sampling=sampling, priority=Priority.SLEEP)
            assert len(served) == 0
            (three,) = await watched.generate([prompt], sampling=sampling, priority=Priority.FOREGROUND)
            await noted(served, 3)
            assert one.text == two.text == three.text
            await watched.forget()
            return one.text, three.text
        finally:
            await plain.aclose()
            await watched.aclose()

    asyncio.run(both())
    assert len(served) == 0


def test_the_stage_takes_what_was_served_and_computes_the_rest() -> None:
    served = ServedAttention()
    served.note(["a", "b"], np.array([[0, 0, 1], [3, 4, 1]], np.float32))
    plain, with_it = StubClassifier(64), ServedClassifier(StubClassifier(64), served)
    window = Window(("a", "b", "c"))
    (expected,), (found,) = plain.score([window]), with_it.score([window])
    assert found.words == expected.words
    assert found.attention[1] == pytest.approx(0.75)
    assert found.mass[1] == pytest.approx(0.75)
    np.testing.assert_array_equal(found.attention[[0, 2]], expected.attention[[0, 2]])


def test_the_oldest_rows_go_first() -> None:
    served = ServedAttention(capacity=3)
    for i in range(5):
        served.note([f"a{i}", f"b{i}"], np.array([[0, 0, 1], [1, 1, 1]], np.float32))
    assert [served.find(f"a{i}", f"b{i}") is not None for i in range(5)] == [False, False, True, True, True]


def test_it_needs_a_model_in_this_process() -> None:
    config = load(settings=["classifier.source=served", "lm.url=http://localhost:1/v1", "device.kind=cpu"]).config
    with pytest.raises(ConfigError, match="needs a language model in this process"):
        load_encoders(config)
