"""The published sensory pipeline, transcribed: what the engine's own is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification

from tests.models import lingua_texts


class Reference:
    """The published pipeline, step by step, one message after another."""

    def __init__(self, folder: Path, layers: int, rate: float, patch: pytest.MonkeyPatch, device: str = "cpu") -> None:
        self.rate = rate
        self.compressor = lingua_texts.package(folder, patch, device)
        model = AutoModelForTokenClassification.from_pretrained(folder, attn_implementation="eager")
        self.model = model.to(device).eval()
        self.tokenizer = lingua_texts.tokenizer("bert")
        self.layers = range(layers - max(1, layers // 3), layers)

    def compress(self, text: str) -> str:
        """The package's text, or the original where it has none."""
        short: str = self.compressor.compress_prompt(text, rate=self.rate)["compressed_prompt"]
        return short or text

    def compress_all(self, texts: Sequence[str]) -> list[str]:
        """Each by itself."""
        return [self.compress(text) for text in texts]

    def matrix(self, texts: Sequence[str]) -> list[list[float]]:
        """Attention from each text to the earlier ones: rows sum to 1 where there is any."""
        spans, ids = [], [self.tokenizer.cls_token_id]
        for text in texts:
            own = self.tokenizer.encode(text, add_special_tokens=False)
            spans.append(range(len(ids), len(ids) + len(own)))
            ids += own
        ids = [*ids[:511], self.tokenizer.sep_token_id]
        with torch.no_grad():
            maps = self.model(torch.tensor([ids], device=self.model.device), output_attentions=True).attentions
        whole = torch.stack([maps[layer][0] for layer in self.layers]).mean(0).mean(0).cpu().numpy()
        inner = range(3, len(ids) - 3)
        rows = []
        for i, own in enumerate(spans):
            queries = [a for a in own if a in inner]
            row = []
            for earlier in spans[:i]:
                keys = [b for b in earlier if b in inner]
                mass = [sum(float(whole[a, b]) for b in keys) for a in queries]
                row.append(sum(mass) / len(mass) if mass else 0.0)
            total = sum(row)
            rows.append([value / total for value in row] if total else row)
        return rows

    def run(self, texts: Sequence[str]) -> None:
        """Compress, then segment, each user alone."""
        for text in texts:
            self.matrix([self.compress(text)])
