"""How a store is: what it holds, and whether that is whole."""

from __future__ import annotations

import sqlite3
from typing import Any

from lightmem_engine.kv.store import KVStore


def verify(store: KVStore) -> dict[str, int]:
    """Read every chunk; damaged ones are removed. Counts: `ok`, `damaged`, `unreadable`."""
    counts = {"ok": 0, "damaged": 0, "unreadable": 0}
    for key, state, _, _ in store.index.all():
        found = store.index.ready(key) if state == "ready" else None
        if found is None:
            continue
        chunks, reason = store.read([found[0]], float("inf"))
        counts["ok" if chunks else "unreadable" if reason == "io" else "damaged"] += 1
    return counts


def stats(store: KVStore) -> dict[str, Any]:
    """What is stored, what stands, and all counters. Trouble is counted, and shows as nothing stored."""
    try:
        used, rows = store.index.used(), store.index.counts(store.now())
        free = store.free_bytes(store.root)
    except (sqlite3.Error, OSError) as error:
        store.counters.count("errors", reason=type(error).__name__)
        used, rows, free = 0, {}, 0
    cap = store.bounds.caps.total
    sizes = {"bytes_used": used, "bytes_cap": cap, "bytes_free": free, "tokens": rows.get("tokens", 0)}
    return {
        **sizes,
        "chunks": rows.get("ready", 0),
        "pinned": rows.get("leased", 0),
        "manifests": len(store.allowed()),
        **store.counters.snapshot(),
    }
