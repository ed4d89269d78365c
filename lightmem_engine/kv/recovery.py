"""What a start finds: the remains of writers that died, rows without files, files without rows."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from lightmem_engine.kv import writers
from lightmem_engine.kv.counters import Counters
from lightmem_engine.kv.files import ChunkFiles, key_of
from lightmem_engine.kv.index import Index
from lightmem_engine.runtime.failpoints import Failpoints


def open_index(root: Path, counters: Counters) -> Index:
    """The index under `root`. One that is damaged or of another version is thrown away with all chunks: it is a cache.

    Raises `OSError` or `sqlite3.Error` if there cannot be one.
    """
    path = root / "kv.db"
    try:
        return Index(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # a disk that cannot be written to proves no damage
            raise
        counters.count("orphans", reason="index")
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.rmtree(root / "chunks", ignore_errors=True)
        (root / "chunks").mkdir(mode=0o700, exist_ok=True)
        return Index(path)


@contextlib.contextmanager
def closing_on_failure(index: Index) -> Iterator[None]:
    """An index that nobody will use is closed."""
    try:
        yield
    except BaseException:
        index.close()
        raise


def recover(root: Path, index: Index, files: ChunkFiles, counters: Counters, failpoints: Failpoints) -> None:
    """Make index and files agree. Other processes may be at work meanwhile; only one recovers at a time."""
    folder = root / writers.FOLDER
    with writers.alone(root):
        present = {key: path for path in files.chunks.rglob("*") if path.is_file() and (key := key_of(path))}
        rows = index.all()
        lost = {id for _, state, id, _ in rows if state == "writing" and writers.is_dead(folder, id)}
        for draft in files.temporary.iterdir():
            if writers.is_dead(folder, writer_of(draft)):
                _remove(draft, counters)
        failpoints.reach("kv.recover")
        gone = []
        for key, state, id, size in rows:
            if state == "dead" or (state == "writing" and id in lost):
                if files.unlink(key):
                    gone.append(key)
                    counters.count("orphans", reason=state)
            elif state == "ready" and not _has_size(files.path(key), size):
                files.unlink(key)
                gone.append(key)
                counters.count("orphans", reason="file")
        index.abandon(gone)
        known = {key for key, _, _, _ in index.all()}
        for key, path in present.items():
            if key not in known and key not in gone:
                _remove(path, counters)
        for claim in folder.iterdir():
            writers.is_dead(folder, claim.name)


def writer_of(draft: Path) -> str:
    """Who has begun this temporary file."""
    return draft.name.partition("-")[0]


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _remove(path: Path, counters: Counters) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
        counters.count("orphans", reason="no_row")
