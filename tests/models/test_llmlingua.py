"""LLMLingua-2 checkpoints of both families; the published package is the oracle for words and their probabilities."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightmem_engine.errors import ConfigError, InvalidInput
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.llmlingua import LlmLinguaClassifier
from lightmem_engine.types import Window, Word
from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family

# The package tells the families apart by these words in the path.
FOLDERS: dict[Family, str] = {"bert": "bert-base-multilingual-cased", "xlm-roberta": "xlm-roberta-large"}
TEXTS = (
    "Caroline moved to Denver on 8 May 2023, and she isn't unhappy.",
    "unforgettable   evenings; self-care (really)!",
    "He painted \u2603 mountains... They walked",
)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: Family = request.param
    return tiny_encoder.save(tmp_path_factory.mktemp("llmlingua") / FOLDERS[family], family, labels=2)


@pytest.fixture
def classifier(folder: Path) -> LlmLinguaClassifier:
    return LlmLinguaClassifier(Encoder(locate(str(folder)), labels=True))


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The published compressor over the same checkpoint, its network access cut off."""
    llmlingua = pytest.importorskip("llmlingua", reason="the published package is a test extra")
    import tiktoken

    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: SimpleNamespace(encode=lambda word: [0]))
    return llmlingua.PromptCompressor(str(folder), device_map="cpu", use_llmlingua2=True)


def surface(text: str, words: tuple[Word, ...]) -> list[str]:
    return [text[word.start : word.end] for word in words]


@pytest.mark.filterwarnings("ignore")
def test_words_and_probabilities_equal_the_packages(
    folder: Path, classifier: LlmLinguaClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.random.get_rng_state()
    theirs = package(folder, monkeypatch)
    torch.random.set_rng_state(state)
    encoder = classifier.encoder
    for text in TEXTS:
        ids = [encoder.begin, *encoder.tokenize([text])[0], encoder.end]
        with torch.no_grad():
            logits = theirs.model(input_ids=torch.tensor([ids])).logits[0]
        tokens = theirs.tokenizer.convert_ids_to_tokens(ids)
        words, probabilities, _ = theirs._PromptCompressor__merge_token_to_word(
            tokens, logits.softmax(-1)[:, 1].tolist(), force_tokens=[], token_map={}, force_reserve_digit=False
        )
        means = theirs._PromptCompressor__token_prob_to_word_prob(probabilities)
        (scores,) = classifier.score([Window((text,))])
        visible = [(word.lstrip("\u2581"), p) for word, p in zip(words, means, strict=True) if word.strip("\u2581")]
        assert surface(text, scores.words[0]) == [word for word, _ in visible]
        # Both are float32, which here is up to 2.4e-5 (package) and 2.3e-5 (packed layers) off double precision.
        np.testing.assert_allclose([word.keep for word in scores.words[0]], [p for _, p in visible], atol=5e-5)


def test_turns_of_a_window_read_each_other_but_keep_their_words_apart(classifier: LlmLinguaClassifier) -> None:
    together, alone = classifier.score([Window(TEXTS), Window(TEXTS[1:2])])
    assert surface(TEXTS[1], together.words[1]) == surface(TEXTS[1], alone.words[0])
    assert [w.keep for w in together.words[1]] != [w.keep for w in alone.words[0]]


def test_context_is_read_but_not_scored(classifier: LlmLinguaClassifier) -> None:
    plain, in_context = classifier.score([Window(TEXTS), Window(TEXTS, num_context=2)])
    assert in_context.words[:2] == ((), ())
    assert surface(TEXTS[2], in_context.words[2]) == surface(TEXTS[2], plain.words[2])
    np.testing.assert_allclose([w.keep for w in in_context.words[2]], [w.keep for w in plain.words[2]], atol=5e-5)
    np.testing.assert_allclose(in_context.mass, plain.mass, atol=5e-5)


def test_characters_unknown_to_the_vocabulary_belong_to_no_word(classifier: LlmLinguaClassifier) -> None:
    (scores,) = classifier.score([Window(("\u2603\u2603",))])
    assert scores.words == ((),)


def test_other_heads_are_refused(tmp_path: Path) -> None:
    plain = Encoder(locate(str(tiny_encoder.save(tmp_path / "plain"))))
    with pytest.raises(ConfigError, match="two-label"):
        LlmLinguaClassifier(plain)
    three = Encoder(locate(str(tiny_encoder.save(tmp_path / "three", labels=3))), labels=True)
    with pytest.raises(ConfigError, match="two-label"):
        LlmLinguaClassifier(three)


def test_a_window_beyond_the_positions_is_refused(classifier: LlmLinguaClassifier) -> None:
    with pytest.raises(InvalidInput, match="window 1"):
        classifier.score([Window(("Denver",)), Window(("walked " * 600,))])
