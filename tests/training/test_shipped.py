"""The weights that are shipped sit their exam: values that training never showed, greedy, through the serving code."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.training.evaluate import items, marks, sit

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
async def figures() -> Mapping[str, float]:
    model = QwenModel.load(str(packaged_micro_qwen().directory))
    try:
        return marks(await sit(model, items(1.0, "shipped")))
    finally:
        await model.aclose()


@pytest.mark.parametrize(
    ("figure", "least"),
    [
        ("answer@10", 0.9),
        ("answer@20", 0.8),
        ("refuse@10", 0.9),
        ("refuse@20", 0.9),
        ("facts F1", 0.85),
        ("facts grounded", 0.98),
        ("facts valid", 1.0),
        ("decide actions", 0.9),
        ("decide valid", 1.0),
    ],
)
async def test_it_passes(figures: Mapping[str, float], figure: str, least: float) -> None:
    assert figures[figure] >= least, dict(figures)
