"""The packed forward on a GPU against the same layers in double precision on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification

from lightmem_engine.models.packed import Captured, PackedBody, attend, by_head
from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family

LENGTHS = (2, 3, 40, 40, 41, 200, 300)


def test_denominators_are_turned_the_way_the_reducer_wants_them() -> None:
    found = torch.randn(4, 9)
    for given in (found, found.T):
        turned = by_head(given, num_tokens=9, num_heads=4)
        assert turned is not None
        assert torch.equal(turned, found)
    assert by_head(torch.randn(4, 4), num_tokens=4, num_heads=4) is None, "nobody can tell which way round this is"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_heads_that_the_kernel_does_not_take_are_computed_all_the_same() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(5, 3, 2, 6, dtype=torch.float16)
    found, lse = attend(qkv.cuda(), (2, 3), with_lse=True)
    truth, _ = attend(qkv.double(), (2, 3))
    assert lse is None
    assert float((found.cpu().double() - truth).norm() / truth.norm()) < 5e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_logits_and_denominators(tmp_path: Path, family: Family, dtype: torch.dtype, tolerance: float) -> None:
    folder = tiny_encoder.save(tmp_path / "tiny", family, labels=2, heads=3)

    def load(kind: torch.dtype) -> Any:
        model = AutoModelForTokenClassification.from_pretrained(folder, dtype=kind, attn_implementation="eager")
        return model.eval().requires_grad_(False)

    torch.manual_seed(0)
    texts = [torch.randint(5, 150, (length,)) for length in LENGTHS]
    seen: list[Captured] = []
    body = PackedBody(load(dtype).cuda())
    with torch.inference_mode():
        hidden = body.run(torch.cat(texts).cuda(), LENGTHS, layers=(0,), sink=seen.append)
        assert hidden is not None
        found = body.classify(hidden).cpu()
        truth = torch.cat([load(torch.float64)(ids.unsqueeze(0)).logits[0] for ids in texts]).float()
    assert float((found - truth).norm() / truth.norm()) < tolerance
    (captured,) = seen
    assert captured.lse is not None
    start = 0
    for length in LENGTHS:
        own = slice(start, start + length)
        q, k = (part[own].double().transpose(0, 1) for part in (captured.q, captured.k))
        expected = (q @ k.transpose(1, 2) * q.shape[2] ** -0.5).logsumexp(-1)
        torch.testing.assert_close(captured.lse[:, own].double(), expected, atol=1e-2, rtol=1e-2)
        start += length
