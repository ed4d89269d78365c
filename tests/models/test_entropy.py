"""Words by cross-entropy, and attention between texts, against plain forwards of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.config_loader import load
from lightmem_engine.errors import ConfigError, InvalidInput
from lightmem_engine.loading import load_encoders
from lightmem_engine.models.entropy import EntropyClassifier
from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.types import Window
from tests.models import tiny_qwen

TEXTS = ("Caroline said that she lives in Boston.", "日本 naïve 😀!", "And what about Denver, on 8 May 2023?")


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save(tmp_path_factory.mktemp(request.param) / "tiny", request.param)


@pytest.fixture(scope="module")
def classifier(folder: Path) -> EntropyClassifier:
    return EntropyClassifier.load(str(folder), device="cpu", dtype=torch.float32, layers=(0, 1))


def plain(folder: Path, texts: tuple[str, ...]) -> tuple[Any, list[int], Any]:
    """Cross-entropy of each token, the text it is of, and the maps [layers, heads, T, T], by an eager model."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    words: Any = AutoTokenizer.from_pretrained(folder)
    ids, of = [words.pad_token_id], [-1]
    line_break = words("\n")["input_ids"]
    for i, text in enumerate(texts):
        own = words(text)["input_ids"]
        ids += [*own, *line_break]
        of += [*[i] * len(own), *[-1] * len(line_break)]
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_attentions=True)
    log = found.logits[0].log_softmax(-1)
    surprise = [0.0, *(-float(log[i, token]) for i, token in enumerate(ids[1:]))]
    return surprise, of, torch.stack(found.attentions)[:, 0]


def test_a_word_is_worth_the_mean_surprise_of_its_tokens(classifier: EntropyClassifier, folder: Path) -> None:
    (scores,) = classifier.score([Window(TEXTS)])
    surprise, of, _ = plain(folder, TEXTS)
    words: Any = AutoTokenizer.from_pretrained(folder)
    for i, text in enumerate(TEXTS):
        own = [value for value, text_of in zip(surprise, of, strict=True) if text_of == i]
        offsets = words(text, return_offsets_mapping=True)["offset_mapping"]
        shown = [text[word.start : word.end] for word in scores.words[i]]
        assert "".join(shown) == "".join(text.split())
        for word in scores.words[i]:
            inside = [v for v, (a, b) in zip(own, offsets, strict=True) if b > word.start and a < word.end]
            assert word.keep == pytest.approx(sum(inside) / len(inside), abs=1e-4)


def test_attention_between_texts_is_that_of_an_eager_forward(classifier: EntropyClassifier, folder: Path) -> None:
    (scores,) = classifier.score([Window(TEXTS)])
    _, of, maps = plain(folder, TEXTS)
    of[:1] = of[-1:] = [-1]
    mass = np.zeros((3, 3))
    for q, i in enumerate(of):
        for k, j in enumerate(of):
            if i >= 0 and j >= 0:
                mass[i, j] += float(maps[:, :, q, k].sum())
    assert np.isnan(scores.attention[0])
    assert scores.attention[1] == pytest.approx(1.0)
    assert scores.attention[2] == pytest.approx(mass[2, 1] / (mass[2, 0] + mass[2, 1]), abs=1e-5)
    assert scores.mass[2] == pytest.approx(mass[2, 1] / (mass[2, 1] + mass[2, 2]), abs=1e-5)


def test_windows_of_one_call_do_not_disturb_each_other(classifier: EntropyClassifier) -> None:
    windows = [Window(TEXTS), Window(("one",)), Window((TEXTS[0] * 5, "x"), 1), Window(TEXTS[1:])]
    together = classifier.score(windows)
    for window, found in zip(windows, together, strict=True):
        (alone,) = classifier.score([window])
        np.testing.assert_allclose(alone.attention, found.attention, atol=1e-5)
        for one, other in zip(alone.words, found.words, strict=True):
            np.testing.assert_allclose([w.keep for w in one], [w.keep for w in other], atol=1e-3)


def test_context_is_read_but_not_scored(classifier: EntropyClassifier) -> None:
    (scores,) = classifier.score([Window(TEXTS, 2)])
    assert scores.words[:2] == ((), ())
    assert scores.words[2]


def test_what_does_not_fit_is_said(classifier: EntropyClassifier) -> None:
    with pytest.raises(InvalidInput, match="the model reads 2048"):
        classifier.score([Window(("word " * 3000,))])
    with pytest.raises(InvalidInput, match="context texts among 0"):
        classifier.score([Window(())])


def test_a_layer_or_a_checkpoint_that_is_none_is_a_config_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers 0 to 1"):
        EntropyClassifier.load(str(folder), device="cpu", dtype=torch.float32, layers=(2,))
    with pytest.raises(ConfigError, match="cannot load a causal language model"):
        EntropyClassifier.load(str(tmp_path), device="cpu", dtype=torch.float32)


def test_the_packaged_model_serves_without_any_setting() -> None:
    config = load(settings=["classifier.source=entropy", "device.kind=cpu"]).config
    encoders = load_encoders(config)
    assert encoders.classifier.name == f"entropy({packaged_micro_qwen().directory})"
    (scores,) = encoders.classifier.score([Window(("My sister lives in Denver.", "My sister lives in Vexley."))])
    keep = {"My sister lives in Vexley."[w.start : w.end]: w.keep for w in scores.words[1] if w.end - w.start > 1}
    assert max(keep, key=lambda word: keep[word]) == "Vexley", "all but it was said before"
