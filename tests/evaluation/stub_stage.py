"""The sensory stage over stub encoders."""

from __future__ import annotations

from collections.abc import Sequence

from lightmem_engine.config_sensory import CompressConfig
from lightmem_engine.models.stub_encoder import StubClassifier, StubEmbedder
from lightmem_engine.sensory.memory import SensoryMemory
from lightmem_engine.types import Vectors, Window, WindowScores


def stub_stage(compress: CompressConfig) -> SensoryMemory:
    """Windows of 64 tokens, stretches of 120 words."""
    classifier, embedder = StubClassifier(), StubEmbedder()

    async def classify(windows: Sequence[Window]) -> list[WindowScores]:
        return classifier.score(windows)

    async def embed(texts: Sequence[str]) -> Vectors:
        return embedder.encode(texts)

    return SensoryMemory(
        classify=classify,
        embed=embed,
        count=classifier.count,
        window_tokens=64,
        compress=compress,
        max_words=120,
    )
