"""Messages compressed one by one, end to end, against the published package over the same random weights."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmem_engine.assemble import open_workbench
from lightmem_engine.config import EmbedderConfig, EngineConfig
from lightmem_engine.config_sensory import ClassifierConfig, CompressConfig
from lightmem_engine.errors import BackendUnavailable, ConfigError
from lightmem_engine.loading import load_encoders
from lightmem_engine.models import gpt_tokens, lingua_device, lingua_messages
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.lingua_messages import MessageCompressor
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.sensory.memory import SensoryJob
from lightmem_engine.types import Scope, Turn, Window
from tests.models import lingua_texts, tiny_encoder
from tests.models.lingua_texts import CHINESE, ENGLISH, message
from tests.models.tiny_encoder import Family

NUM_MESSAGES = 350


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: Family = request.param
    return lingua_texts.save(tmp_path_factory.mktemp("messages"), family)


def compressor(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> MessageCompressor:
    encoder = Encoder(locate(str(folder)), labels=True, dtype=dtype)
    return MessageCompressor(encoder, lingua_texts.gpt_tokens, **options)


@pytest.mark.filterwarnings("ignore")
def test_texts_equal_the_packages_end_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both compute in doubles and round the logits: single numbers end in bits that depend on what shares a batch, and
    of some thousand texts one has a word whose fate hangs on such a bit."""
    theirs = lingua_texts.package(folder, monkeypatch)
    theirs.model.double().register_forward_hook(_rounded)
    ours = compressor(folder, dtype=torch.float64)
    rng = random.Random(7)
    messages = [message(rng) for _ in range(NUM_MESSAGES)]
    found = ours.compress([[text] for text in messages], LinguaOptions(rate=0.6))
    for text, own in zip(messages, found, strict=True):
        try:
            expected = theirs.compress_prompt([text], rate=0.6)["compressed_prompt"]
        except IndexError:
            assert own.status in ("no words", "broken word")
            expected = text
        assert own.text == expected
    single = compressor(folder).compress([[text] for text in messages], LinguaOptions(rate=0.6))
    assert sum(own.text != exact.text for own, exact in zip(single, found, strict=True)) <= 0.01 * NUM_MESSAGES


def _rounded(_model: Any, _asked: Any, answer: Any) -> Any:
    answer.logits = answer.logits.float()
    return answer


def test_neighbours_in_the_batch_change_nothing(folder: Path) -> None:
    ours = compressor(folder, rate=0.5)
    rng = random.Random(3)
    messages = [message(rng) for _ in range(40)]
    assert ours.shorten(messages) == [ours.shorten([text])[0] for text in messages]


@pytest.mark.parametrize(
    "options",
    [
        LinguaOptions(rate=0.6),
        LinguaOptions(rate=0.33, token_to_word="first", force_tokens=(".", "the"), force_reserve_digit=True),
        LinguaOptions(target_token=12),
        LinguaOptions(rate=0.5, force_tokens=("\n", "."), drop_consecutive=True),
        LinguaOptions(rate=0.5, use_context_level_filter=False),
        LinguaOptions(rate=1.0),
    ],
    ids=["rate", "first token", "target", "consecutive", "no filter", "all"],
)
def test_words_chosen_where_the_model_ran_are_the_same(
    folder: Path, options: LinguaOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, by plain torch: single texts are chosen from there, contexts that compete are not."""
    ours = compressor(folder)
    rng = random.Random(11)
    calls = [[message(rng) for _ in range(1 if i % 8 else 3)] for i in range(48)] + [["\u2603"], [""]]
    expected = ours.compress(calls, options)
    asked: list[int] = []

    def counted(probabilities: Any, chunks: Any, options: LinguaOptions) -> Any:
        asked.append(len(chunks))
        return lingua_device.choose(probabilities, chunks, options)

    monkeypatch.setattr(lingua_messages, "choose", counted)
    monkeypatch.setenv("LIGHTMEM_KERNELS", "library")
    assert ours.compress(calls, options) == expected
    is_refused = options.drop_consecutive or options.rate == 1
    assert (sum(asked) == 0) == is_refused
    assert is_refused or sum(asked) >= 41


def test_nothing_visible_is_lost_altogether(folder: Path) -> None:
    odd = ["\u2603\u2603", "x" * 130, "", " ", "\U0001f600", "<|endoftext|>", "[PAD]", "[NEW3]", "</s><pad>"]
    short = compressor(folder, rate=0.5).shorten(odd)
    assert all(bool(after.strip()) == bool(before.strip()) for before, after in zip(odd, short, strict=True))


def test_what_cannot_be_an_llmlingua_model_is_refused(tmp_path: Path) -> None:
    plain = tiny_encoder.save(tmp_path / "plain")
    with pytest.raises(ConfigError, match="two-label"):
        MessageCompressor(Encoder(locate(str(plain))), len)
    small = tiny_encoder.save(tmp_path / "small", labels=2, positions=64)
    with pytest.raises(ConfigError, match="needs 512"):
        MessageCompressor(Encoder(locate(str(small)), labels=True), len)


def test_a_vocabulary_without_room_is_refused(folder: Path) -> None:
    encoder = Encoder(locate(str(folder)), labels=True)
    encoder.body.vocabulary -= 1
    with pytest.raises(ConfigError, match="adds a hundred"):
        MessageCompressor(encoder, len)


@pytest.mark.parametrize("mode", ["window", "per_message"])
def test_the_mode_decides_who_chooses_words(folder: Path, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingua_messages, "load_counter", lambda: lingua_texts.gpt_tokens)
    config = EngineConfig(
        embedder=EmbedderConfig(stub=True),
        classifier=ClassifierConfig(source="llmlingua", model=str(folder), mode=mode),
        compress=CompressConfig(rate=0.5),
    )
    encoders = load_encoders(config)
    (scores,) = encoders.classifier.score([Window(ENGLISH[:3])])
    assert (scores.words == ((), (), ())) == (mode == "per_message")
    assert scores.mass.shape == (3,)
    if mode == "window":
        assert encoders.shorten is None
    else:
        assert encoders.shorten is not None
        (short,) = encoders.shorten(ENGLISH[:1])
        assert 0 < len(short) < len(ENGLISH[0])


async def test_the_sensory_stage_stores_those_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingua_messages, "load_counter", lambda: lingua_texts.gpt_tokens)
    config = EngineConfig(
        embedder=EmbedderConfig(stub=True),
        classifier=ClassifierConfig(source="llmlingua", model=str(folder), mode="per_message"),
        compress=CompressConfig(rate=0.5),
    )
    said = [*ENGLISH[:4], *CHINESE[:2], "\u2603"]
    now = datetime(2024, 3, 1, tzinfo=UTC)
    turns = [Turn(i, f"m{i}", Scope("u"), "s", "user", "Ann", text, now, now) for i, text in enumerate(said)]
    async with open_workbench(config) as bench:
        (sensed,) = await bench.sensory.sense([SensoryJob(turns)])
    expected = compressor(folder, rate=0.5).shorten(said)
    assert [turn.pieces[0].compressed for turn in sensed] == expected
    assert all(turn.mass > 0 for turn in sensed[1:-1])


def test_the_mode_needs_such_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match=r"classifier\.source = llmlingua"):
        ClassifierConfig(mode="per_message")


def test_a_missing_table_of_tokens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")

    def offline(_: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "encoding_for_model", offline)
    with pytest.raises(BackendUnavailable, match=r"TIKTOKEN_CACHE_DIR") as raised:
        gpt_tokens.load_counter()
    assert gpt_tokens.FILE in str(raised.value)


def test_the_named_file_is_what_tiktoken_looks_for() -> None:
    address = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    assert hashlib.sha1(address.encode()).hexdigest() == gpt_tokens.FILE
