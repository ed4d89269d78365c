"""Looking for words in every byte of a directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def places(directory: Path, *words: str) -> dict[str, list[str]]:
    """Per word the files that hold it, in whatever case it was written; sockets have no bytes."""
    contents: dict[str, bytes] = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # gone since it was listed
            if path.is_file():
                contents[str(path.relative_to(directory))] = path.read_bytes().lower()
    return {word: [name for name, data in contents.items() if word.lower().encode() in data] for word in words}


def assert_gone(directory: Path, *words: str) -> None:
    """No byte of any file holds any of these words."""
    found = {word: files for word, files in places(directory, *words).items() if files}
    assert not found, found
