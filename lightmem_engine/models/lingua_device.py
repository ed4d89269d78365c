"""The choice of words where the model's output lies: one kernel for all chunks of a batch, a byte per word comes back.

Everything but the probabilities is known before the model runs: which tokens make which word, what it weighs, and
between which two ranks the threshold of its chunk lies. Options that walk from word to word, or weigh whole contexts
against each other, are left to `lingua_select`; so is all of it on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_plan import Ints, Words
from lightmem_engine.models.lingua_tables import Flags
from lightmem_kernels import implementation, keep_words

Keep = Callable[..., torch.Tensor]

# From 2.4 on numpy computes the place of a percentile in double precision whatever the values are.
_PLACES_ARE_DOUBLE = np.lib.NumpyVersion(np.__version__) >= "2.4.0"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a percentile of so many values lies: see `lightmem_kernels.keep_words`."""

    rank: int
    fraction: float
    from_above: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A chunk to choose from.   offset: where its tokens begin in the batch.   share: of it to drop."""

    words: Words
    offset: int
    share: float


def chooses(device: torch.device) -> bool:
    """Whether words are chosen on the device; `LIGHTMEM_KERNELS=reference` leaves that to numpy everywhere."""
    return implementation(device.type) != "reference"


def can_choose(words: Words, options: LinguaOptions) -> bool:
    """Whether the words of a chunk can be chosen on the device; never where the package would raise."""
    if not words.texts or options.drop_consecutive or not options.use_token_level_filter:
        return False
    return bool(words.weights.any())


def choose(
    probabilities: torch.Tensor, chunks: Sequence[Asked], options: LinguaOptions, keep: Keep = keep_words
) -> list[Flags]:
    """Per chunk whether each word stays, as `lingua_select.keep_words` has it, to the bit.

    probabilities: float32 [T] of a batch's tokens, on any device.   keep: an implementation of that operation.
    """
    if not chunks:
        return []
    is_mean = options.token_to_word == "mean"
    tables: list[tuple[Ints, ...]] = []
    bounds, doubles, found = [0], [], []
    num_places = 0
    for chunk in chunks:
        words = chunk.words
        lengths = words.lengths if is_mean else np.ones_like(words.starts)
        places = np.where(words.forced, -1, words.places + chunk.offset)
        tables.append((places, words.starts + num_places, lengths, words.weights))
        num_places += len(places)
        bounds.append(bounds[-1] + len(words.texts))
        forced = np.logical_and.reduceat(words.forced, words.starts) if is_mean else words.forced[words.starts]
        doubles.append(bool((forced & (words.weights > 0)).any()))
        found.append(place(int(words.weights.sum()), int(100 * chunk.share + 1), is_double=doubles[-1]))
    device = probabilities.device
    on_device = [torch.from_numpy(np.concatenate(part)).int().to(device) for part in zip(*tables, strict=True)]
    flags = keep(
        probabilities,
        *on_device,
        torch.tensor(bounds),
        torch.tensor([own.rank for own in found], device=device),
        torch.tensor([own.fraction for own in found], dtype=torch.float64, device=device),
        torch.tensor([own.from_above for own in found], device=device),
        torch.tensor(doubles, device=device),
    )
    return np.split(flags.cpu().numpy(), bounds[1:-1])


def place(count: int, q: int, *, is_double: bool) -> Place:
    """Where numpy's percentile q of `count` float64 or float32 values lies."""
    kind = np.float64 if is_double or _PLACES_ARE_DOUBLE else np.float32
    at = (count - 1) * (kind(q) / kind(100))
    if at >= count - 1:
        return Place(count - 1, 0.0, False)
    rank = int(np.floor(at))
    fraction = kind(at - rank)
    from_above = bool(fraction >= 0.5)
    step = kind(1) - fraction if from_above else fraction
    return Place(rank, float(step if is_double else np.float32(step)), from_above)
