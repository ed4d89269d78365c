"""Embedding a data directory anew, after the embedder was changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import StoreError
from lightmem_engine.loading import load_encoders
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.sensory.memory import spoken
from lightmem_engine.stores import schema
from lightmem_engine.stores.lock import DirectoryLock
from lightmem_engine.stores.reembed import Progress, reembed
from lightmem_engine.stores.sqlite import connect, translated


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What was done: vectors computed now, and the embedder this memory lives with from now on."""

    vectors: int
    embedder: str


def reindex(config: EngineConfig, directory: Path, report: Callable[[Progress], None]) -> Reindexed:
    """Compute every stored vector with the configured embedder. `report` hears of each step once it is on disk.

    Interrupted in any way, it goes on where it was when it is run again. Raises `StoreError` while another process owns
    the directory, for a directory without a memory, and for a disk that fails.
    """
    path = directory / "memory.db"
    if not path.exists():
        raise StoreError(f"there is no memory in {directory}")
    lock = DirectoryLock(directory)
    failpoints = Failpoints(config.runtime.failpoint)
    try:
        embedder = load_encoders(config).embedder
        with closing(connect(path)) as connection:
            schema.migrate(connection)
            first = last = 0
            steps = reembed(connection, embedder.name, lambda texts: np.asarray(embedder.encode(texts)), spoken)
            for number, step in enumerate(steps):
                first, last = step.done if number == 0 else first, step.done
                report(step)
                failpoints.reach("stage.commit")
            return Reindexed(last - first, embedder.name)
    except sqlite3.Error as error:
        raise translated(error, path) from error
    finally:
        lock.release()
