"""What other processes were keeping when they died, found while the store is in use."""

from __future__ import annotations

import sqlite3

from lightmem_engine.errors import StoreError
from lightmem_engine.kv import writers
from lightmem_engine.kv.recovery import recover, writer_of
from lightmem_engine.kv.store import KVStore


def left_by_dead(store: KVStore) -> set[str]:
    """Manifests under which processes that are gone have kept something; what they left half written is removed.

    Raises `StoreError` if that cannot be told.
    """
    try:
        manifests, is_half_written = _look(store)
        if is_half_written:
            recover(store.root, store.index, store.files, store.counters, store.failpoints)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"what processes that died have left in {store.root} cannot be found: {error}") from error
    return manifests


def _look(store: KVStore) -> tuple[set[str], bool]:
    folder = store.root / writers.FOLDER
    with writers.alone(store.root):
        kept_by = store.index.kept_by()
        half = store.index.writing() | {writer_of(draft) for draft in store.files.temporary.iterdir()}
        dead = {id for id in half.union(kept_by.values()) if writers.is_dead(folder, id)}
    return {manifest for manifest, id in kept_by.items() if id in dead}, not dead.isdisjoint(half)
