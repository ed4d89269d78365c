"""Signs of life of long work: on a terminal only."""

from __future__ import annotations

import sys

_WIDTH = 30


def progress(text: str, end: str = "") -> None:
    """A line that overwrites itself on a terminal; nothing in a pipe."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end=end, file=sys.stderr, flush=True)


def bar(done: int, total: int, what: str) -> None:
    """How much of it is done; the line goes when all is."""
    filled = _WIDTH * done // max(1, total)
    progress("" if done >= total else f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done} of {total} {what}")
