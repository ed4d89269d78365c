"""Linear layers laid out for oneDNN: the same numbers, the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightmem_engine.models import laid_out
from lightmem_engine.models.laid_out import LaidOutLinear, lay_out

needed = pytest.mark.skipif(not laid_out.ONEDNN, reason="this build of torch has no oneDNN")


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_it_is_the_same_layer(dtype: torch.dtype, bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 33, bias=bias, dtype=dtype)
    mine = LaidOutLinear(plain)
    x = torch.randn(2, rows, 48, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(mine(x), plain(x), atol=2e-2 if dtype is torch.bfloat16 else 1e-5, rtol=1e-2)
    weight: Any = mine.weight
    assert torch.equal(weight.to_dense(), plain.weight)


@needed
def test_every_linear_layer_of_a_model_is_replaced_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), nn.Linear(4, 2).half())
    lay_out(model)
    kinds = [type(module).__name__ for module in model.modules() if not isinstance(module, nn.Sequential)]
    assert kinds == ["LaidOutLinear", "LaidOutLinear", "LayerNorm", "Linear"]


def test_without_onednn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laid_out, "ONEDNN", False)
    model = nn.Sequential(nn.Linear(8, 8))
    lay_out(model)
    assert type(model[0]) is nn.Linear
