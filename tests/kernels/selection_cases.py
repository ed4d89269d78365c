"""Chunks of words with probabilities that are hard to choose from, and how numpy chooses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lightmem_engine.models.lingua_device import Asked, Keep, choose
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_plan import Words
from lightmem_engine.models.lingua_select import Probabilities, keep_words

# 0.2 and 0.45 make percentiles that binary fractions round down.
SHARES = (1e-9, 0.01, 0.2, 1 - 0.55, 1 - 0.66, 0.4, 0.5, 1 - 0.33, 0.9, 0.99, 0.999, 1 - 2**-53)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Its words, the probabilities of its tokens, what share to drop."""

    words: Words
    probabilities: Probabilities
    share: float


def chunk(rng: random.Random, most: int) -> Chunk:
    """One chunk of 1 to `most` words."""
    num_words = rng.choice((1, 2, 3, most, rng.randint(1, most)))
    lengths = np.array([rng.choice((1, 1, 1, 2, 3, 7)) for _ in range(num_words)])
    num_tokens = int(lengths.sum()) + rng.randint(0, 4)  # some tokens belong to no word
    places = np.array(sorted(rng.sample(range(num_tokens), int(lengths.sum()))), np.int64)
    weights = np.array([rng.choice((1, 1, 1, 2, 3, 0)) for _ in range(num_words)], np.int64)
    weights[rng.randrange(num_words)] = 1
    forced = np.array([rng.random() < rng.choice((0, 0.1, 0.5)) for _ in places], np.bool_)
    starts = np.cumsum([0, *lengths[:-1]])
    words = Words([f"w{i}" for i in range(num_words)], weights, starts, lengths, places, forced)
    return Chunk(words, _probabilities(rng, num_tokens), rng.choice((*SHARES, rng.random())))


def _probabilities(rng: random.Random, count: int) -> Probabilities:
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    kind = rng.choice(("dense", "ties", "neighbours", "tiny", "same", "saturated"))
    if kind == "dense":
        found = numbers.random(count, np.float32)
    elif kind == "ties":
        found = numbers.choice(np.array([0, 0.25, 1 / 3, 0.5, 1], np.float32), count)
    elif kind == "neighbours":  # a rounding apart
        found = (np.float32(0.3).view(np.int32) + numbers.integers(0, 4, count)).astype(np.int32).view(np.float32)
    elif kind == "tiny":  # most of what a model says is near 0
        found = (numbers.random(count) ** 30).astype(np.float32)
    elif kind == "same":
        found = np.full(count, rng.choice((0, 1, 0.7)), np.float32)
    else:
        found = 1 - (numbers.random(count) ** 12).astype(np.float32)
    return found


def disagreements(cases: Sequence[Chunk], options: LinguaOptions, device: str, keep: Keep) -> list[int]:
    """Which of the chunks, chosen from as one batch by `keep`, come out otherwise than by numpy."""
    offsets = np.cumsum([0, *(len(case.probabilities) for case in cases)])
    told = torch.from_numpy(np.concatenate([case.probabilities for case in cases])).to(device)
    asked = [Asked(case.words, int(at), case.share) for case, at in zip(cases, offsets, strict=False)]
    found = choose(told, asked, options, keep)
    expected = [keep_words(case.words, case.probabilities, case.share, options) for case in cases]
    return [i for i, (one, two) in enumerate(zip(found, expected, strict=True)) if one.tolist() != two]
