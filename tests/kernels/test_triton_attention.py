"""The Triton kernel without a GPU: its arithmetic in the interpreter, its machine code from the compiler."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lightmem_kernels import library, reference
from tests.kernels.test_segment_attention import CASES, packed
from tests.support.process import python

pytest.importorskip("triton", reason="Triton is not installed")

SHARED_MEMORY = 232_448  # bytes a block can have on sm_90
RELATIVE_ERROR = 1e-5  # of float32 arithmetic


def rows(module: str, **env: str) -> list[dict[str, Any]]:
    """The JSON lines that a module prints."""
    done = python("-m", module, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_interpreted_kernel_agrees_with_double_precision() -> None:
    found = rows("tests.kernels.interpreted_attention", TRITON_INTERPRET="1")
    assert len(found) == 6 * 2 * 3
    assert [row for row in found if not row["error"] < RELATIVE_ERROR] == []


def test_the_compiled_kernels_neither_spill_nor_miss_the_tensor_cores() -> None:
    found = rows("tests.kernels.compiled_attention")
    assert len(found) == 8
    for row in found:
        assert row["LDL"] == row["STL"] == row["HMMA"] == 0, row
        assert row["HGMMA"] > 0, row
        assert row["shared"] <= SHARED_MEMORY, row


@pytest.mark.parametrize(("lengths", "heads", "dim", "causal"), CASES)
@pytest.mark.parametrize("mode", ["matrix", "adjacent", "received"])
def test_the_library_composition_agrees_with_the_reference(
    lengths: list[tuple[int, int]], heads: tuple[int, int], dim: int, causal: bool, mode: str
) -> None:
    q, k, *rest = packed(lengths, heads, dim, seed=7)
    truth = reference.segment_attention(q.double(), k.double(), None, *rest, causal=causal, mode=mode)
    into = torch.ones_like(truth, dtype=torch.float32)
    found = library.segment_attention(q, k, None, *rest, causal=causal, mode=mode, accumulate_into=into)
    torch.testing.assert_close(found.double() - 1, truth, atol=1e-5, rtol=1e-5)
