"""The matrix of attention between texts, and the boundaries read off it, against the published definition.

The transcription below works on whole maps of attention, token by token, as the definition does.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.packed import Captured
from lightmem_engine.models.window_pass import lay_out, read_windows
from lightmem_engine.sensory.paper import paper_boundaries
from lightmem_engine.types import Window
from lightmem_kernels import segment_attention
from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family
from tests.sensory.test_paper import chain, transcription

BUFFERS = 520  # per family
LAYERS = (1, 2)
EDGE = 3
WORDS = ("Caroline", "moved", "to", "Denver", "painted", "the", "mountains", "\u200b", "evenings!", "self-care")


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    family: Family = request.param
    return Encoder(locate(str(tiny_encoder.save(tmp_path_factory.mktemp(family) / "tiny", family))))


def buffer(rng: random.Random) -> Window:
    sizes = [rng.choice((0, 1, 1, 2, 3, 5, 8)) for _ in range(rng.randint(1, 10))]
    return Window(tuple(" ".join(rng.choice(WORDS) for _ in range(size)) for size in sizes))


def published(maps: Any, segments: list[int], n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """M[i, j]: for text i, the mean over its tokens of the attention summed over the tokens of text j, each row then
    divided by its sum. The first three and last three positions count for nothing."""
    total = len(segments)
    valid = [False] * 3 + [True] * (total - 6) + [False] * 3 if total >= 6 else [False] * total
    whole = torch.stack([maps[layer][0] for layer in LAYERS]).mean(0).mean(0).double().tolist()
    tokens = [[t for t in range(total) if segments[t] == i and valid[t]] for i in range(n)]
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            sums = [sum(whole[a][b] for b in tokens[j]) for a in tokens[i]]
            matrix[i, j] = sum(sums) / len(sums) if sums else 0.0
        if matrix[i].sum() > 0:
            matrix[i] /= matrix[i].sum()
    return matrix


def matrix_of(encoder: Encoder, ids: list[int], segments: torch.Tensor, n: int) -> Any:
    """The same out of the reduction that never keeps a map."""
    batch = next(encoder.batches([ids]))
    inner = segments.clone()
    inner[:EDGE] = inner[-EDGE:] = -1
    found = torch.zeros(1, n, n)

    def add(captured: Captured) -> None:
        bounds = batch.bounds()
        segment_attention(
            captured.q, captured.k, captured.lse, inner, inner, bounds, bounds, causal=False, accumulate_into=found
        )

    encoder.forward(batch, layers=LAYERS, sink=add, hidden=False)
    rows = found[0].double().numpy()
    counts = np.array([max(1, int((inner == i).sum())) for i in range(n)])[:, None]
    means = rows / counts
    sums = means.sum(1, keepdims=True)
    return np.divide(means, sums, out=np.zeros_like(means), where=sums > 0)


def test_matrix_and_boundaries_equal_the_definition(encoder: Encoder) -> None:
    rng = random.Random(0)
    windows = [buffer(rng) for _ in range(BUFFERS)]
    reference = AutoModel.from_pretrained(encoder.checkpoint.directory, attn_implementation="eager").eval()
    layouts = lay_out(encoder, windows)
    results = {f.index: f for f in read_windows(encoder, windows, layers=LAYERS, edge_tokens=EDGE)}
    cuts = close_calls = 0
    for number, (window, layout) in enumerate(zip(windows, layouts, strict=True)):
        n = len(window.texts)
        with torch.no_grad():
            maps = reference(torch.tensor([layout.ids]), output_attentions=True).attentions
        expected = published(maps, layout.segments.tolist(), n)
        np.testing.assert_allclose(matrix_of(encoder, layout.ids, layout.segments, n), expected, atol=1e-4)
        outer = np.nan_to_num(results[number].attention[1:].astype(float))
        below = [float(expected[k + 1, k]) for k in range(n - 1)]
        np.testing.assert_allclose(outer, below, atol=1e-4)
        if any(0 < abs(a - b) < 1e-4 for a, b in itertools.pairwise(below)):
            close_calls += 1
            continue
        similarity = [rng.uniform(0.1, 0.9) for _ in below]
        vectors = chain(similarity)
        for index in ("code", "paper"):
            found = sorted(paper_boundaries(outer, vectors, index=index))
            assert found == transcription(below, similarity, index)
            cuts += len(found)
    assert cuts > BUFFERS / 4
    assert close_calls < BUFFERS / 50
