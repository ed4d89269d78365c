"""The choice of words of `bench_kernels`: chunks as LLMLingua-2 cuts them, by the kernel, by torch and by numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from lightmem_engine.models import lingua_device
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_plan import Words
from lightmem_engine.models.lingua_select import keep_words
from lightmem_kernels import selection

CHUNK_TOKENS = 512
WORD_TOKENS = 1.3  # on average
SHARE = 0.4  # to drop


def variants(num_chunks: int, device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What can choose the words of so many full chunks; the first is the kernel, on CUDA.

    The first two choose from tables that are on the device already; numpy from probabilities in memory, chunk by chunk.
    """
    numbers = np.random.default_rng(0)
    num_words = int(CHUNK_TOKENS / WORD_TOKENS)
    lengths = 1 + numbers.multinomial(CHUNK_TOKENS - num_words, np.full(num_words, 1 / num_words))
    starts = np.cumsum([0, *lengths[:-1]])
    forced = np.zeros(CHUNK_TOKENS, np.bool_)
    words = Words([""] * num_words, np.ones(num_words, np.int64), starts, lengths, np.arange(CHUNK_TOKENS), forced)
    told = numbers.random((num_chunks, CHUNK_TOKENS), np.float32)
    where = lingua_device.place(num_words, int(100 * SHARE + 1), is_double=False)
    shift = np.arange(num_chunks)[:, None]
    tables = [
        torch.from_numpy(table.astype(np.int32).ravel()).to(device)
        for table in (
            np.arange(num_chunks * CHUNK_TOKENS),
            starts + shift * CHUNK_TOKENS,
            np.tile(lengths, (num_chunks, 1)),
            np.ones((num_chunks, num_words)),
        )
    ]
    common = (
        torch.from_numpy(told.ravel()).to(device),
        *tables,
        torch.arange(num_chunks + 1) * num_words,
        torch.full((num_chunks,), where.rank, device=device),
        torch.full((num_chunks,), where.fraction, dtype=torch.float64, device=device),
        torch.full((num_chunks,), where.from_above, device=device),
        torch.zeros(num_chunks, dtype=torch.bool, device=device),
    )
    if device == "cuda":
        from lightmem_kernels import triton_selection

        yield "triton", partial(triton_selection.keep_words, *common)
    yield "torch", partial(selection.keep_words, *common)
    options = LinguaOptions()
    yield "numpy", lambda: [keep_words(words, own, SHARE, options) for own in told]
