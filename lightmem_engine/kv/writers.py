"""Which processes write into a store: each holds a lock on a file of its own, so that a dead one is known by it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "writers"


class Writer:
    """One process's claim. `id` names its rows and its temporary files."""

    def __init__(self, root: Path) -> None:
        folder = root / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = uuid.uuid4().hex
        self._path = folder / self.id
        with alone(root):  # between making the file and locking it, it would pass for a dead writer's
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    def close(self) -> None:
        """The claim ends, as it would with the process."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def is_dead(folder: Path, id: str) -> bool:
    """Whether the writer of this id is gone. Its file goes with it."""
    path = folder / id
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        with contextlib.suppress(OSError):
            path.unlink()
        return True
    finally:
        os.close(handle)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the lock of who comes, who goes and who cleans up."""
    handle = os.open(root / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
