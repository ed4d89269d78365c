"""Packed layers against the layers of transformers, one sequence at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

from lightmem_engine.errors import ConfigError
from lightmem_engine.models import laid_out
from lightmem_engine.models.packed import Captured, PackedBody
from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family

LENGTHS = (2, 3, 3, 3, 40, 40, 41, 200, 300)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: Family = request.param
    return tiny_encoder.save(tmp_path_factory.mktemp(family) / "tiny", family, labels=2)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def sequences(seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randint(5, 150, (length,)) for length in LENGTHS]


@torch.inference_mode()
def hidden(body: PackedBody, texts: list[torch.Tensor], **more: Any) -> torch.Tensor:
    found = body.run(torch.cat(texts), [len(ids) for ids in texts], **more)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("onednn", [True, False])
def test_logits_equal_those_of_transformers(
    folder: Path, dtype: torch.dtype, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laid_out, "ONEDNN", onednn and laid_out.ONEDNN)
    model, body, texts = load(folder), PackedBody(load(folder, dtype)), sequences()
    expected = torch.cat([model(ids[None]).logits[0] for ids in texts])
    found = body.classify(hidden(body, texts))
    assert found.dtype == torch.float32
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    else:  # as far from float32 as transformers in bfloat16 is, about
        low = load(folder, dtype)
        theirs = torch.cat([low(ids[None]).logits[0] for ids in texts]).float()
        assert (found - expected).abs().mean() <= 2 * (theirs - expected).abs().mean() + 1e-3


def test_a_hidden_token_is_not_seen_by_the_others(folder: Path) -> None:
    model, body, texts = load(folder), PackedBody(load(folder)), sequences()
    visible = [torch.ones(len(ids), dtype=torch.bool) for ids in texts]
    visible[5][7] = visible[8][0] = False
    found = torch.split(hidden(body, texts, visible=torch.cat(visible)), list(LENGTHS))
    for ids, shown, own in zip(texts, visible, found, strict=True):
        theirs = model.base_model(ids[None], attention_mask=shown[None].long()).last_hidden_state[0]
        torch.testing.assert_close(own[shown], theirs[shown], atol=1e-4, rtol=1e-4)


def test_a_padding_token_in_the_text_takes_no_position(folder: Path) -> None:
    model, body, texts = load(folder), PackedBody(load(folder)), sequences()
    for ids in texts:
        ids[len(ids) // 2] = model.config.pad_token_id
    expected = torch.cat([model(ids[None]).logits[0] for ids in texts])
    torch.testing.assert_close(body.classify(hidden(body, texts)), expected, atol=1e-4, rtol=1e-4)


def test_only_what_is_asked_for_is_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, texts = PackedBody(load(folder)), sequences()
    finished: list[int] = []
    finish = PackedBody._finish

    def noted(self: PackedBody, layer: Any, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        finished.append(len(finished))
        return finish(self, layer, x, mixed)

    monkeypatch.setattr(PackedBody, "_finish", noted)
    whole: list[Captured] = []
    hidden(body, texts, layers=(0, 1), sink=whole.append)
    assert len(finished) == 3
    finished.clear()
    short: list[Captured] = []
    lengths = [len(ids) for ids in texts]
    with torch.inference_mode():
        assert body.run(torch.cat(texts), lengths, layers=(0, 1), sink=short.append, hidden=False) is None
        assert body.run(torch.cat(texts), lengths, hidden=False) is None
    assert len(finished) == 1
    assert [captured.layer for captured in short] == [0, 1]
    for one, other in zip(whole, short, strict=True):
        torch.testing.assert_close(one.q, other.q, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.k, other.k, atol=1e-5, rtol=1e-4)


def test_neighbours_change_nothing(folder: Path) -> None:
    body, texts = PackedBody(load(folder)), sequences()
    together = torch.split(hidden(body, texts), list(LENGTHS))
    for ids, own in zip(texts, together, strict=True):
        np.testing.assert_allclose(hidden(body, [ids]), own, atol=1e-4)


def test_relative_positions_are_refused(folder: Path) -> None:
    model = load(folder)
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(ConfigError, match="relative_key"):
        PackedBody(model)
