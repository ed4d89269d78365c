"""Whether users wait, told to another process by eight bytes of a file that both have mapped: read without a call."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

NAME = "foreground"
SIZE = 8


class ForegroundFlag:
    """A count that one process writes and others read. Who opens it to write sets it to 0."""

    def __init__(self, path: Path, *, is_writer: bool = False) -> None:
        """Raises `OSError` if the file cannot be made."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < SIZE:
                os.ftruncate(descriptor, SIZE)
            self._map = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        if is_writer:
            self.set(0)

    def set(self, count: int) -> None:
        """Say how many users wait."""
        self._map[:] = count.to_bytes(SIZE, "little")

    def read(self) -> int:
        """How many users wait."""
        return int.from_bytes(self._map[:], "little")

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
