"""Linear layers whose weights lie in memory as oneDNN reads them.

torch lays weights out anew at every call, or leaves float32 to MKL, which reaches a third to half of oneDNN's speed on
processors of other makers than MKL's. Laid out once, one token takes half the time and thirty-two take three quarters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def _has_onednn() -> bool:
    """Whether oneDNN's linear layer can be called by itself, with weights laid out for it once."""
    try:
        with torch.inference_mode():
            weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(8, 8), None)
            torch.ops.mkldnn._linear_pointwise(torch.ones(1, 8), weight, torch.ones(8), "gelu", [], "none")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


ONEDNN = _has_onednn()


def can_lay_out(weight: torch.Tensor) -> bool:
    """Whether oneDNN computes with these weights here."""
    return ONEDNN and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)


class LaidOutLinear(nn.Module):
    """`nn.Linear` for inference alone; the plain weights are not kept. weight: opaque, `to_dense` gives it back."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with torch.inference_mode():
            weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in] to [..., out]."""
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return found


def lay_out(model: Any) -> None:
    """Replace every linear layer of a model that will only be asked from now on; nothing where oneDNN is not."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and can_lay_out(child.weight):
                setattr(parent, name, LaidOutLinear(child))
