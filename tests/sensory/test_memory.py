"""The sensory stage on scripted models, and once on the packaged ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from lightmem_engine.config_sensory import CompressConfig
from lightmem_engine.errors import ModelError
from lightmem_engine.models.encoder import Encoder, SentenceEmbedder
from lightmem_engine.models.packaged import packaged_minilm
from lightmem_engine.models.saliency import SaliencyClassifier
from lightmem_engine.models.stub_encoder import StubClassifier, StubEmbedder
from lightmem_engine.sensory.memory import SensoryJob, SensoryMemory
from lightmem_engine.sensory.term_counts import TermCounts
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Role, Scope, SensedTurn, Turn, Vectors, Window, WindowScores

NOW = datetime(2024, 3, 1, tzinfo=UTC)
ROLES: tuple[Role, Role] = ("user", "assistant")


def turns_of(*texts: str, speaker: str = "", roles: Sequence[Role] = ROLES) -> list[Turn]:
    return [
        Turn(i, f"m{i}", Scope("u"), "s", roles[i % 2], speaker or roles[i % 2], text, NOW, NOW)
        for i, text in enumerate(texts)
    ]


class Models:
    """The weight-free models, with a record of what they were asked."""

    def __init__(self) -> None:
        self.classifier, self.embedder = StubClassifier(), StubEmbedder()
        self.windows: list[list[Window]] = []
        self.texts: list[list[str]] = []

    async def classify(self, windows: Sequence[Window]) -> list[WindowScores]:
        self.windows.append(list(windows))
        return self.classifier.score(windows)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts.append(list(texts))
        return self.embedder.encode(texts)


def stage(models: Models, **options: Any) -> SensoryMemory:
    given = {
        "window_tokens": 40,
        "compress": CompressConfig(rate=0.5, protect=(), whole_words=0),
        "max_words": 12,
        **options,
    }
    return SensoryMemory(classify=models.classify, embed=models.embed, count=models.classifier.count, **given)


async def test_one_call_to_each_model_serves_all_sessions() -> None:
    models = Models()
    jobs = [SensoryJob(turns_of("we met", "where was it")), SensoryJob([]), SensoryJob(turns_of("hello world"))]
    sensed = await stage(models).sense(jobs)
    assert [len(turns) for turns in sensed] == [2, 0, 1]
    assert len(models.windows) == len(models.texts) == 1
    assert models.texts[0] == ["user said, we met", "assistant said, where was it", "user said, hello world"]


async def test_nothing_to_do_asks_nobody() -> None:
    models = Models()
    assert await stage(models).sense([]) == []
    assert await stage(models).sense([SensoryJob([])]) == [[]]
    assert not models.windows
    assert not models.texts


async def test_both_roles_are_in_the_window_and_the_previous_turn_before_it() -> None:
    models = Models()
    context = ["first question", "first answer"]
    await stage(models).sense([SensoryJob(turns_of("second question", "second answer"), context, {"x": 1}, 7)])
    assert models.windows == [
        [Window(("first answer", "second question", "second answer"), 1, {"x": 1}, 7)],
    ]


async def test_attention_to_the_previous_turn_exists_whatever_the_windows() -> None:
    texts = [f"shared words number{i} " + "filler " * (i * 5 % 17) for i in range(12)]
    models = Models()
    (together,) = await stage(models).sense([SensoryJob(turns_of(*texts))])
    assert len(models.windows[0]) > 2
    assert math.isnan(together[0].mass)
    assert all(turn.mass > 0 for turn in together[1:])
    turns = turns_of(*texts)
    for i in range(1, len(turns)):
        ((alone,),) = await stage(models).sense([SensoryJob(turns[i : i + 1], texts[i - 1 : i])])
        assert alone.mass > 0
        assert np.array_equal(alone.vector, together[i].vector)


async def test_a_turn_longer_than_a_window_is_read_in_several_and_nothing_is_lost() -> None:
    text = " ".join(f"word{i}" for i in range(200))
    models = Models()
    ((before, long, after),) = await stage(models, compress=CompressConfig(rate=1)).sense(
        [SensoryJob(turns_of("hello there", text, "good bye"))]
    )
    assert len(models.windows[0]) >= 6
    assert " ".join(piece.compressed for piece in long.pieces) == text
    assert before.num_tokens == after.num_tokens == 2
    assert long.num_tokens == 200
    assert not math.isnan(after.mass)


async def test_pieces_are_compressed_and_point_into_the_turn() -> None:
    models = Models()
    text = "The gardener planted tulips. " * 8
    ((sensed,),) = await stage(models).sense([SensoryJob(turns_of(text))])
    assert len(sensed.pieces) > 2
    for piece in sensed.pieces:
        assert text[piece.start : piece.end].strip() == text[piece.start : piece.end]
        assert piece.compressed
        assert len(piece.compressed) < piece.end - piece.start
    assert sensed.num_tokens == sum(num_tokens(piece.compressed) for piece in sensed.pieces)
    assert abs(float(np.linalg.norm(sensed.vector)) - 1) < 1e-5


async def test_one_long_run_of_characters_is_kept_whole() -> None:
    text = "x" * 500 + "\u200b"
    ((sensed,),) = await stage(Models(), compress=CompressConfig(rate=0.1, whole_words=0)).sense(
        [SensoryJob(turns_of(text))]
    )
    assert sensed.pieces[0].start == 0
    assert sensed.pieces[-1].end == len(text)
    assert all(piece.compressed for piece in sensed.pieces)


async def test_speakers_are_protected_as_names_but_roles_are_not() -> None:
    models = Models()
    protecting = CompressConfig(rate=0.2, protect=("names",), whole_words=0)
    (named,) = await stage(models, compress=protecting).sense(
        [SensoryJob(turns_of("so melanie went somewhere beautiful", speaker="Melanie"))]
    )
    assert named[0].pieces[0].compressed == "melanie"
    (plain,) = await stage(models, compress=protecting).sense([SensoryJob(turns_of("so the user wandered"))])
    assert plain[0].pieces[0].compressed == "wandered"


async def test_a_models_failure_reaches_the_caller() -> None:
    async def broken(windows: Sequence[Window]) -> list[WindowScores]:
        raise ModelError("out of order")

    models = Models()
    broken_stage = SensoryMemory(
        classify=broken,
        embed=models.embed,
        count=models.classifier.count,
        window_tokens=40,
        compress=CompressConfig(),
        max_words=12,
    )
    with pytest.raises(ModelError, match="out of order"):
        await broken_stage.sense([SensoryJob(turns_of("hello"))])


async def test_published_segmentation_reads_user_turns_only() -> None:
    models = Models()
    user_stage = stage(models, attend="users")
    turns = turns_of("new question", "new answer", "last question")
    (sensed,) = await user_stage.sense([SensoryJob(turns, ["old answer"], user_context=["old question"])])
    assert models.windows[0][1].texts == ("old question", "new question", "last question")
    assert models.windows[0][1].num_context == 1
    assert user_stage.context_turns > 1
    assert [math.isnan(turn.mass) for turn in sensed] == [False, True, False]
    assert all(turn.pieces[0].compressed for turn in sensed)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder(packaged_minilm())


async def test_the_packaged_model_keeps_what_matters(minilm: Encoder) -> None:
    classifier, embedder = SaliencyClassifier(minilm), SentenceEmbedder(minilm)

    async def classify(windows: Sequence[Window]) -> list[WindowScores]:
        return classifier.score(windows)

    async def embed(texts: Sequence[str]) -> Vectors:
        return embedder.encode(texts)

    sensory = SensoryMemory(
        classify=classify,
        embed=embed,
        count=classifier.count,
        window_tokens=512,
        compress=CompressConfig(rate=0.5, whole_words=0),
        max_words=120,
    )
    counts = TermCounts()
    turns = turns_of(
        "I adopted a greyhound named Pixel from the shelter in Leeds last week.",
        "That is so lovely to hear! How is Pixel getting used to it?",
        "She isn't afraid of the stairs any more, but she has chewed 3 of my shoes.",
    )
    for turn in turns:
        counts.add(turn.text)
    job = SensoryJob(turns, (), counts.document_frequency, counts.num_documents)
    sensed: list[SensedTurn] = (await sensory.sense([job]))[0]
    short = " / ".join(piece.compressed for turn in sensed for piece in turn.pieces)
    for word in ("greyhound", "Pixel", "shelter", "Leeds", "isn't", "stairs", "chewed", "3", "shoes"):
        assert word in short
    assert num_tokens(short) < 0.65 * num_tokens(" / ".join(turn.text for turn in turns))
    assert all(0 < turn.mass < 1 for turn in sensed[1:])


async def test_each_piece_may_be_shortened_by_itself() -> None:
    models = Models()
    asked: list[list[str]] = []

    async def shorten(texts: Sequence[str]) -> list[str]:
        asked.append(list(texts))
        return [text.split()[0] for text in texts]

    long = " ".join(f"word{i}" for i in range(20))
    jobs = [SensoryJob(turns_of("we met", long)), SensoryJob([]), SensoryJob(turns_of("hello world"))]
    first, _, second = await stage(models, shorten=shorten).sense(jobs)
    assert len(asked) == 1
    assert asked[0][0] == "we met"
    assert asked[0][-1] == "hello world"
    assert " ".join(asked[0][1:-1]) == long
    assert [piece.compressed for turn in first for piece in turn.pieces] == ["we", "word0", "word12"]
    assert second[0].pieces[0].compressed == "hello"
    assert second[0].num_tokens == 1


async def test_nothing_is_shortened_where_everything_is_kept() -> None:
    async def shorten(texts: Sequence[str]) -> list[str]:
        raise AssertionError(texts)

    options = {"shorten": shorten, "compress": CompressConfig(rate=1)}
    ((sensed,),) = await stage(Models(), **options).sense([SensoryJob(turns_of("  we met "))])
    assert sensed.pieces[0].compressed == "we met"


async def test_a_failure_to_shorten_reaches_the_caller() -> None:
    async def shorten(texts: Sequence[str]) -> list[str]:
        raise ModelError("out of memory")

    with pytest.raises(ModelError, match="out of memory"):
        await stage(Models(), shorten=shorten).sense([SensoryJob(turns_of("we met"))])
