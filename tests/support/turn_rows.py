"""Attention between the turns of a prompt by an eager forward of transformers, whole maps and all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.models.checkpoint import progress_on_terminals_only
from lightmem_engine.models.turn_places import place_turns
from lightmem_engine.types import Floats


def truth(checkpoint: Path, ids: Sequence[int], contents: Sequence[str], layers: Sequence[int]) -> Floats:
    """[n, 3] as `ServedAttention.note` has it, summed over all heads of chosen layers and all pairs of tokens."""
    progress_on_terminals_only()
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32
    ).eval()
    words: Any = AutoTokenizer.from_pretrained(checkpoint)
    text = words.decode(ids)
    found = words(text, add_special_tokens=False, return_offsets_mapping=True)
    assert found["input_ids"] == list(ids)
    of = torch.from_numpy(place_turns(contents, text, found["offset_mapping"]))
    with torch.inference_mode():
        maps = model(torch.tensor([list(ids)]), output_attentions=True).attentions
    mass = torch.stack([maps[layer][0].sum(0) for layer in layers]).sum(0)
    member = torch.stack([of == turn for turn in range(len(contents))]).float()
    square = (member @ mass @ member.T).numpy()
    n = len(contents)
    rows = [[square[i, i - 1] if i else 0.0, square[i, :i].sum(), square[i, i]] for i in range(n)]
    return np.array(rows, np.float32)
