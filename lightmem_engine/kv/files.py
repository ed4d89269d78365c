"""One chunk, one file: a header, the token ids, the bytes of keys and values.

A file is written under a temporary name and renamed when it is whole. What is read is checked against the digest in
the index and against the key in the header before anybody sees it; parsing executes nothing. Data is not synced to the
disk unless asked for: after a kill the system still has it, and what a power cut takes is found by the digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.kv.keys import FORMAT, KEY_BYTES, Span, Tokens

Bytes = npt.NDArray[np.uint8]
_MAGIC = b"LMKV"
_HEADER = struct.Struct("<4sI32s32s32sQII")  # magic, format, key, parent, fingerprint, payload bytes, start, tokens
_HEAD_BYTES = 128
_ALIGNMENT = 64
_PIECE = 4 << 20  # bytes between two looks at the clock
_BLOCK = 1 << 20  # bytes under one CRC


class Damaged(Exception):
    """A file is not what the index says; its cause in a word, for the counters."""


class Overdue(Exception):
    """Reading has taken longer than it was worth."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that was read and verified. payload: uint8 [n], the caller's own."""

    tokens: Tokens
    payload: Bytes


def payload_offset(num_tokens: int) -> int:
    """Where the payload begins, aligned for every dtype."""
    end = _HEAD_BYTES + 4 * num_tokens
    return -(-end // _ALIGNMENT) * _ALIGNMENT


def blank(span: Span, fingerprint: bytes, payload_bytes: int) -> Bytes:
    """A file's bytes with everything but the payload filled in."""
    offset = payload_offset(len(span.tokens))
    content = np.empty(offset + payload_bytes, np.uint8)
    content[:offset] = 0
    header = _HEADER.pack(
        _MAGIC, FORMAT, span.key, span.parent, fingerprint, payload_bytes, span.start, len(span.tokens)
    )
    content[: len(header)] = np.frombuffer(header, np.uint8)
    ids = np.frombuffer(span.tokens.astype("<u4").tobytes(), np.uint8)
    content[_HEAD_BYTES : _HEAD_BYTES + len(ids)] = ids
    return content


def digest(content: Any) -> bytes:
    """SHA-256 over the CRC-32 of every mebibyte, and the length: as fast as memory, and it is damage that it is to
    find, not malice: whoever can write these files can read the memory itself."""
    view = memoryview(content).cast("B")
    checks = [zlib.crc32(view[at : at + _BLOCK]) for at in range(0, len(view), _BLOCK)]
    return hashlib.sha256(struct.pack(f"<Q{len(checks)}I", len(view), *checks)).digest()


class ChunkFiles:
    """The files under a directory, 0600 in directories of 0700. Thread-safe.

    sync: whether a file is on the disk before it gets its name.
    """

    def __init__(self, root: Path, *, sync: bool = False) -> None:
        self.chunks = root / "chunks"
        self.temporary = root / "tmp"
        self._sync = sync
        for folder in (root, self.chunks, self.temporary):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, key: bytes) -> Path:
        """Where a chunk lies."""
        name = key.hex()
        return self.chunks / name[:2] / name[2:4] / f"{name}.kv"

    def write(self, key: bytes, content: Bytes, draft: Path, reach: Callable[[str], None]) -> None:
        """Put a whole file in place, by way of `draft`. reach: passes a failpoint. Raises `OSError`, and then leaves
        nothing behind."""
        target = self.path(key)
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                view = content.data
                half = len(view) // 2
                _write_all(handle, view[:half])
                reach("kv.write")
                _write_all(handle, view[half:])
                if self._sync:
                    os.fsync(handle)
            finally:
                os.close(handle)
            for folder in (target.parent.parent, target.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            reach("kv.rename")
            draft.replace(target)
            if self._sync:
                _sync_folder(target.parent)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def read(self, key: bytes, fingerprint: bytes, num_bytes: int, expected: bytes, deadline: float) -> Chunk:
        """A verified chunk. deadline: on the monotonic clock.

        Raises `Damaged` if it is proven wrong, `Overdue`, and `OSError` for trouble that proves nothing.
        """
        content = np.empty(num_bytes, np.uint8)
        try:
            handle = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Damaged("absent") from error
        try:
            if os.fstat(handle).st_size != num_bytes:
                raise Damaged("size")
            self._fill(handle, content.data, deadline)
        finally:
            os.close(handle)
        if digest(content) != expected:
            raise Damaged("digest")
        return parse(content, key, fingerprint)

    def peek(self, key: bytes) -> Tokens:
        """The token ids that a file claims to hold, unverified; none if it cannot be read."""
        try:
            with self.path(key).open("rb") as file:
                head = _HEADER.unpack(file.read(_HEADER.size))
                file.seek(_HEAD_BYTES)
                return np.frombuffer(file.read(4 * head[-1]), "<u4").astype(np.uint32)
        except (OSError, struct.error, ValueError):
            return np.empty(0, np.uint32)

    def unlink(self, key: bytes) -> bool:
        """Remove a chunk's file; False if that cannot be done."""
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _fill(self, handle: int, view: memoryview, deadline: float) -> None:
        at = 0
        while at < len(view):
            if time.monotonic() > deadline:
                raise Overdue
            count = self._read_into(handle, view[at : at + _PIECE])
            if count == 0:
                raise Damaged("size")
            at += count

    def _read_into(self, handle: int, view: memoryview) -> int:
        return os.readv(handle, [view])


def parse(content: Bytes, key: bytes, fingerprint: bytes) -> Chunk:
    """The parts of a file. Raises `Damaged` if it is not the chunk of this key over this model."""
    if len(content) < _HEAD_BYTES:
        raise Damaged("header")
    magic, version, found, _, model, payload_bytes, _, num_tokens = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if magic != _MAGIC or version != FORMAT or found != key:
        raise Damaged("header")
    if model != fingerprint:
        raise Damaged("fingerprint")
    offset = payload_offset(num_tokens)
    if offset + payload_bytes != len(content):
        raise Damaged("header")
    ids = np.frombuffer(content[_HEAD_BYTES : _HEAD_BYTES + 4 * num_tokens].tobytes(), "<u4")
    return Chunk(ids.astype(np.uint32), content[offset:])


def key_of(path: Path) -> bytes | None:
    """The key that a file is named after; None for a file that is none of ours."""
    with contextlib.suppress(ValueError):
        key = bytes.fromhex(path.stem)
        if path.suffix == ".kv" and len(key) == KEY_BYTES:
            return key
    return None


def is_full(error: Exception) -> bool:
    """Whether the disk or a quota has no room left, for a file or for the index."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _write_all(handle: int, view: memoryview) -> None:
    while len(view):
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
