"""The kernels where they are meant to run, against double precision on the same rounded inputs."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_kernels import (
    Mode,
    keep_words,
    library,
    reference,
    segment_attention,
    selection,
    similarity_topk,
    triton_attention,
)
from tests.kernels.selection_cases import chunk, disagreements
from tests.kernels.test_segment_attention import packed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of ||found - truth|| / ||truth||
MODES: tuple[Mode, ...] = ("matrix", "adjacent", "received")
# lengths of (queries, keys), heads of (queries, keys), width, causal
CASES = [
    pytest.param([(5, 5)], (2, 2), 16, False, id="one short"),
    pytest.param([(1, 1), (64, 64), (0, 0), (129, 129)], (12, 12), 64, False, id="ragged"),
    pytest.param([(512, 512)] * 3, (12, 12), 64, False, id="encoder"),
    pytest.param([(1000, 1000), (123, 123)], (8, 2), 128, True, id="causal, grouped"),
    pytest.param([(40, 900), (0, 7), (1, 333)], (4, 1), 128, True, id="causal, cached prefix"),
]


@pytest.mark.parametrize(("lengths", "heads", "dim", "causal"), CASES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", ["triton", "library"])
def test_segment_attention_agrees_with_double_precision(
    lengths: list[tuple[int, int]],
    heads: tuple[int, int],
    dim: int,
    causal: bool,
    dtype: torch.dtype,
    mode: Mode,
    variant: str,
) -> None:
    q, k, *rest = packed(lengths, heads, dim, seed=3, dtype=dtype)
    truth = reference.segment_attention(q.double(), k.double(), None, *rest, causal=causal, mode=mode)
    on_device = [part.cuda() for part in rest[:2]]
    chosen = {"triton": triton_attention, "library": library}[variant]
    found = chosen.segment_attention(q.cuda(), k.cuda(), None, *on_device, *rest[2:], causal=causal, mode=mode)
    assert not found.isnan().any()
    apart = (found.double().cpu() - truth).norm() / truth.norm().clamp_min(1e-9)
    assert float(apart) < TOLERANCE[dtype]


def test_runs_repeat_to_the_bit_when_asked_to() -> None:
    q, k, *rest = packed([(512, 512)] * 4, (12, 12), 64, seed=5, dtype=torch.float16)
    on_device = [part.cuda() for part in rest[:2]]
    torch.use_deterministic_algorithms(True)
    try:
        found = [segment_attention(q.cuda(), k.cuda(), None, *on_device, *rest[2:], causal=False) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, two) for one, two in itertools.pairwise(found))


def test_offsets_beyond_two_billion_elements() -> None:
    """The keys of the last sequence lie beyond 2^31 elements, and are read from there."""
    tokens, heads, dim = 5_600_000, 6, 64
    k = torch.zeros(tokens, heads, dim, dtype=torch.float16, device="cuda")
    assert k.numel() > 2**31
    k[-64:] = torch.randn(64, heads, dim, dtype=torch.float16, device="cuda")
    own = k[-64:].clone()
    segments = torch.full((tokens,), -1, device="cuda")
    segments[-64:] = torch.arange(64, device="cuda") // 16

    def run(keys: torch.Tensor, *bounds: list[int]) -> torch.Tensor:
        cu_q, cu_k = map(torch.tensor, bounds)
        of_keys = segments[-len(keys) :]
        return triton_attention.segment_attention(
            own, keys, None, segments[-64:], of_keys, cu_q, cu_k, causal=False, mode="adjacent"
        )

    far = run(k, [0, 0, 64], [0, tokens - 64, tokens])[1]
    near = run(own, [0, 64], [0, 64])[0]
    torch.testing.assert_close(far, near, atol=1e-4, rtol=1e-4)


def test_words_are_chosen_as_numpy_does() -> None:
    """Also where values are a rounding apart, and thousands of chunks are in flight together."""
    for seed, token_to_word in enumerate(("mean", "first") * 4):
        rng = random.Random(seed)
        cases = [chunk(rng, 500 if i % 100 == 0 else 60) for i in range(1000)]
        options = LinguaOptions(token_to_word="first" if token_to_word == "first" else "mean")
        for keep in (keep_words, selection.keep_words):
            assert disagreements(cases, options, "cuda", keep) == []


def test_similarity_search_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(3000, 64), dim=1)
    order, group = torch.randperm(3000), torch.randint(0, 7, (3000,))
    scores, rows = similarity_topk(x.cuda(), order.cuda(), group.cuda(), 10, direction="older")
    truth, _ = similarity_topk(x.double(), order, group, 10, direction="older")
    torch.testing.assert_close(scores.cpu(), truth.float(), atol=1e-5, rtol=0)
    found = torch.where(
        rows.cpu() >= 0, (x.unsqueeze(1) * x[rows.cpu().clamp_min(0)]).sum(-1), torch.tensor(-torch.inf)
    )
    torch.testing.assert_close(found, truth.float(), atol=1e-5, rtol=0)
