"""How fast this machine computes and loads KV, measured once at the start."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from lightmem_engine.kv.files import digest
from lightmem_engine.kv.store import KVStore

_PREFILL_TOKENS = 64
_ROUNDS = 3
_SAMPLE_BYTES = 4 << 20


@torch.inference_mode()
def prefill_rate(model: Any) -> float:
    """Tokens per second of a short prompt; longer ones are slower, so loading is never thought better than it is."""
    ids = torch.arange(_PREFILL_TOKENS, device=model.device)[None] % model.config.vocab_size
    model(input_ids=ids[:, :8], logits_to_keep=1)
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        model(input_ids=ids, logits_to_keep=1).logits[0, -1, 0].item()  # the value, so that a GPU has finished
        best = min(best, time.perf_counter() - started)
    return _PREFILL_TOKENS / best


def load_rate(store: KVStore) -> float:
    """Bytes per second of reading and checking a file of the store. Raises `OSError`."""
    sample = np.random.default_rng(0).integers(0, 256, _SAMPLE_BYTES, np.uint8)
    path = store.draft("calibration")
    try:
        path.write_bytes(sample.tobytes())
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            content = np.empty(_SAMPLE_BYTES, np.uint8)
            started = time.perf_counter()
            os.readv(handle, [content.data])
            digest(content)
            return _SAMPLE_BYTES / (time.perf_counter() - started)
        finally:
            os.close(handle)
    finally:
        path.unlink(missing_ok=True)
