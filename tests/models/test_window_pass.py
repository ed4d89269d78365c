"""Layout of windows and the attention between their texts, against dense maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.window_pass import lay_out, read_windows
from lightmem_engine.types import Window
from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family

TEXTS = ("Caroline moved to Denver", "\u200b", "He painted mountains", "They walked")


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    family: Family = request.param
    return Encoder(locate(str(tiny_encoder.save(tmp_path_factory.mktemp(family) / "tiny", family))))


def test_tokens_know_their_text_and_characters(encoder: Encoder) -> None:
    (layout,) = lay_out(encoder, [Window(TEXTS)])
    assert layout.ids[0] == encoder.begin
    assert layout.ids[-1] == encoder.end
    assert layout.num_texts == 4
    for number, text in enumerate(TEXTS):
        tokens = layout.tokens_of(number)
        assert layout.ids[1:-1][tokens] == encoder.tokenize([text])[0]
        covered = {place for a, b in layout.offsets[tokens] for place in range(a, b)}
        assert {i for i, c in enumerate(text) if c.isalpha()} <= covered


@pytest.mark.parametrize("layers", [(1,), (0, 2)])
def test_attention_between_texts_equals_the_dense_maps(encoder: Encoder, layers: tuple[int, ...]) -> None:
    windows = [Window(TEXTS), Window(("Denver",)), Window(TEXTS[2:])]
    reference = AutoModel.from_pretrained(encoder.checkpoint.directory, attn_implementation="eager").eval()
    results = {found.index: found for found in read_windows(encoder, windows, layers=layers, received=True)}
    assert sorted(results) == [0, 1, 2]
    for number, window in enumerate(windows):
        found = results[number]
        with torch.no_grad():
            maps = reference(torch.tensor([found.layout.ids]), output_attentions=True).attentions
        whole = torch.stack([maps[layer][0].mean(0) for layer in layers]).mean(0).double().numpy()
        segments = found.layout.segments.numpy()

        def between(i: int, j: int, whole: np.ndarray = whole, segments: np.ndarray = segments) -> float:
            return float(whole[segments == i][:, segments == j].sum())

        n = len(window.texts)
        assert found.attention.shape == found.mass.shape == (n,)
        for i in range(1, n):
            earlier = sum(between(i, j) for j in range(i))
            near = between(i, i - 1)
            both = near + between(i, i)
            np.testing.assert_allclose(found.attention[i], near / earlier if earlier else np.nan, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(found.mass[i], near / both if both else np.nan, rtol=1e-3, atol=1e-6)
        assert np.isnan(found.attention[0])
        assert np.isnan(found.mass[0])
        inner = segments[1:-1] >= 0
        assert inner.all()
        last = maps[-1][0].mean(0).double().numpy()
        assert found.received is not None
        np.testing.assert_allclose(found.received, last[1:-1, 1:-1].sum(0), rtol=1e-3, atol=1e-5)
        assert found.keep is None


def test_impossible_windows_are_refused(encoder: Encoder) -> None:
    for window in (Window(()), Window(("a",), num_context=2)):
        with pytest.raises(InvalidInput, match="window 0"):
            lay_out(encoder, [window])
    assert list(read_windows(encoder, [], layers=(0,))) == []
