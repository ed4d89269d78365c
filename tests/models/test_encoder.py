"""The encoder body and the embedder, on tiny random checkpoints of both families and on the packaged model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder, SentenceEmbedder, check_layers
from lightmem_engine.models.packaged import packaged_minilm
from lightmem_engine.models.packed import Captured
from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family

TEXTS = ["Caroline moved to Denver.", "He painted", "", "They walked, talked and remembered evenings! " * 5]


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    family: Family = request.param
    return Encoder(locate(str(tiny_encoder.save(tmp_path_factory.mktemp(family) / "tiny", family, positions=64))))


def alone(encoder: Encoder, ids: list[int]) -> torch.Tensor:
    """Hidden states of one unpadded sequence, from a model loaded independently."""
    model = AutoModel.from_pretrained(encoder.checkpoint.directory, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden: torch.Tensor = model(torch.tensor([ids])).last_hidden_state[0]
    return hidden


def test_embeddings_are_mean_pooled_unit_rows_in_order(encoder: Encoder) -> None:
    found = SentenceEmbedder(encoder).encode(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (4, encoder.dim)
    for row, ids in zip(found, encoder.tokenize(TEXTS), strict=True):
        mean = alone(encoder, [encoder.begin, *ids[:62], encoder.end]).mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_batches_and_neighbours_do_not_matter(encoder: Encoder) -> None:
    texts = [f"{'remembered ' * (i % 7)}Denver {i}" for i in range(23)]
    together = SentenceEmbedder(encoder).encode(texts)
    one_by_one = np.vstack([SentenceEmbedder(encoder).encode([text]) for text in texts])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_batches_respect_the_token_budget(encoder: Encoder) -> None:
    sequences = [[0] * n for n in (50, 3, 30, 30, 3, 60)]
    budget, encoder.batch_tokens = encoder.batch_tokens, 64
    try:
        batches = list(encoder.batches(sequences))
    finally:
        encoder.batch_tokens = budget
    assert sorted(row for batch in batches for row in batch.rows) == list(range(6))
    assert all(len(batch.ids) == sum(batch.lengths) <= 64 for batch in batches)


def test_nothing_gives_nothing(encoder: Encoder) -> None:
    assert SentenceEmbedder(encoder).encode([]).shape == (0, encoder.dim)
    assert encoder.count([]) == []
    assert encoder.count(["", "Denver Denver"])[0] == 0


def test_text_beyond_the_positions_is_cut(encoder: Encoder) -> None:
    assert encoder.max_tokens == 64
    embedder = SentenceEmbedder(encoder)
    long = "walked " * 200
    np.testing.assert_allclose(embedder.encode([long]), embedder.encode([long + "more and more"]), atol=1e-6)


@pytest.mark.parametrize("layers", [(0,), (0, 2), (1, 2)])
def test_captured_queries_and_keys_give_the_models_own_attention(encoder: Encoder, layers: tuple[int, ...]) -> None:
    sequences = [[encoder.begin, *ids[:40], encoder.end] for ids in encoder.tokenize(TEXTS)]
    reference = AutoModel.from_pretrained(encoder.checkpoint.directory, attn_implementation="eager").eval()
    for batch in encoder.batches(sequences):
        seen: list[Captured] = []
        encoder.forward(batch, layers=layers, sink=seen.append)
        assert [captured.layer for captured in seen] == list(layers)
        bounds = batch.bounds().tolist()
        for i, row in enumerate(batch.rows):
            with torch.no_grad():
                maps = reference(torch.tensor([sequences[row]]), output_attentions=True).attentions
            for captured in seen:
                q, k = captured.q[bounds[i] : bounds[i + 1]], captured.k[bounds[i] : bounds[i + 1]]
                own = (torch.einsum("qhd,khd->hqk", q, k) * q.shape[2] ** -0.5).softmax(-1)
                torch.testing.assert_close(own, maps[captured.layer][0], atol=1e-5, rtol=1e-4)


def test_layers_are_checked(encoder: Encoder) -> None:
    assert check_layers((), encoder) == (2,)
    assert check_layers((), encoder, default=(1,)) == (1,)
    assert check_layers((0,), encoder) == (0,)
    with pytest.raises(ConfigError, match=r"\[3\]"):
        check_layers((3,), encoder)


def test_what_cannot_be_an_encoder_is_refused(tmp_path: Path) -> None:
    folder = tiny_encoder.save(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="gpt2"):
        Encoder(locate(str(folder)))
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"):
        Encoder(locate(str(folder)))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoder.save(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Encoder(locate(str(folder)))


def test_the_packaged_model_knows_what_is_alike() -> None:
    embedder = SentenceEmbedder(Encoder(packaged_minilm()))
    assert (embedder.dim, embedder.max_tokens) == (384, 256)
    a, b, c = embedder.encode(["I adopted a puppy", "We got a young dog", "The bond market fell"])
    assert a @ b > 0.5 > a @ c
