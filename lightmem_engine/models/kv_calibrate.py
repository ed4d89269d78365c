"""How fast this machine computes and loads KV, measured once at the start."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from lightmem_engine.kv.files import digest
from lightmem_engine.kv.store import KVStore
from lightmem_engine.models.kv_storage import Storage

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


def load_rate(store: KVStore, storage: Storage) -> float:
    """Bytes of file per second of reading, checking and unpacking. Raises `OSError`."""
    size = storage.size(max(1, _SAMPLE_BYTES // storage.size(1)))
    sample = np.random.default_rng(0).integers(0, 64, size, np.uint8)  # no NaN among the scales that some bytes are
    storage.unpack(sample)  # the first time takes longer
    path = store.draft("calibration")
    try:
        path.write_bytes(sample.tobytes())
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return size / min(_read_seconds(handle, size, storage) for _ in range(_ROUNDS))
        finally:
            os.close(handle)
    finally:
        path.unlink(missing_ok=True)


def _read_seconds(handle: int, size: int, storage: Storage) -> float:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    content = np.empty(size, np.uint8)
    started = time.perf_counter()
    os.preadv(handle, [content.data], 0)
    digest(content)
    storage.unpack(content)
    return time.perf_counter() - started
