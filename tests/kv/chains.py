"""Chains of made-up chunks, and stores to put them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightmem_engine.kv import keys
from lightmem_engine.kv.files import Bytes, Chunk
from lightmem_engine.kv.index import Bounds
from lightmem_engine.kv.keys import Span
from lightmem_engine.kv.store import KVStore

SIZE = 16  # tokens of a chunk
BYTES_PER_TOKEN = 512
MODEL = keys.fingerprint({"weights": "a"})


def chain(tokens: Sequence[int], salt: str = "ann", model: bytes = MODEL) -> list[Span]:
    """The chunks of a prompt."""
    return keys.spans(keys.root(salt, model), keys.as_tokens(tokens), SIZE)


def content_of(span: Span) -> Bytes:
    """What a chunk holds: bytes that depend on its key."""
    seed = np.frombuffer(span.key[:8], np.uint64)[0]
    return np.random.default_rng(int(seed)).integers(0, 256, len(span.tokens) * BYTES_PER_TOKEN, np.uint8)


def fill(span: Span, payload: Bytes) -> None:
    """Write `content_of`."""
    payload[:] = content_of(span)


def open_store(root: Path, total: int = 1 << 24, **options: Any) -> KVStore:
    """A store with room for a few hundred chunks."""
    share = options.pop("tenant_share", 1.0)
    return KVStore(root, Bounds(total, share), **options)


def put(store: KVStore, manifest: str, spans: Sequence[Span], tenant: str = "shop", model: bytes = MODEL) -> int:
    """Keep a chain under a manifest that stands."""
    kept = store.put(
        manifest, tenant, model, spans, lambda span: len(span.tokens) * BYTES_PER_TOKEN, fill, lambda _: 0.01
    )
    store.allow([manifest])
    return kept


def get(store: KVStore, spans: Sequence[Span]) -> list[Chunk]:
    """What is found of a chain, checked to be what was put: bytes are right or they are not there."""
    rows = []
    for span in spans:
        row = store.find(span.key)
        if row is None:
            break
        rows.append(row)
    chunks, _ = store.read(rows, float("inf"))
    for span, chunk in zip(spans, chunks, strict=False):
        assert chunk.tokens.tolist() == span.tokens.tolist()
        assert np.array_equal(chunk.payload, content_of(span))
    return chunks


def files(root: Path) -> list[Path]:
    """Chunk files and drafts."""
    return [path for folder in ("chunks", "tmp") for path in (root / folder).rglob("*") if path.is_file()]


def assert_sound(store: KVStore) -> None:
    """Rows and files agree, nothing is left over, and the charge is what the disk holds."""
    rows = store.index.all()
    assert all(state == "ready" for _, state, _, _ in rows), rows
    assert sorted(store.files.path(key) for key, _, _, _ in rows) == sorted(files(store.root))
    assert store.index.used() == sum(-(-path.stat().st_size // 4096) * 4096 for path in files(store.root))
