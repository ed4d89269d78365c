"""Whole memories out and in: exports as one consistent moment, imports user by user."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import IO

from lightmem_engine.errors import StoreError
from lightmem_engine.pipeline.pipeline import Pipeline
from lightmem_engine.stores import portable, reembed
from lightmem_engine.stores.memory_db import MemoryDB, snapshot
from lightmem_engine.stores.records import UserRecords, read
from lightmem_engine.stores.restore import restore, texts_of
from lightmem_engine.types import Scope, Vector, Vectors

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
CHUNK_BYTES = 1 << 16
TEXTS_PER_CALL = 256


class Porter:
    """Exports and imports of one database. Belongs to one event loop."""

    def __init__(
        self, db: MemoryDB, embed: Embed, embed_model: str, spoken: reembed.Spoken, pipeline: Pipeline
    ) -> None:
        """embed: texts to vectors, in the background."""
        self._db = db
        self._embed = embed
        self._embed_model = embed_model
        self._spoken = spoken
        self._pipeline = pipeline

    async def export(self, scope: Scope | str) -> AsyncIterator[bytes]:
        """The lines of one user, or of all users of a tenant, as they stood at one moment.

        They are written to an unnamed file first: a reader that takes its time holds up neither writers nor erasure.
        """
        with self._spool() as file:
            await self._db.read(snapshot(partial(_write, scope=scope, file=file)))
            await asyncio.to_thread(file.seek, 0)
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    async def import_(self, tenant: str, chunks: AsyncIterable[bytes]) -> dict[str, int]:
        """Take in an export under a tenant; returns how many users it holds, and how many messages and entries are new.

        Every line is checked before anything is stored: `InvalidInput` names a bad one. Then each user is one
        transaction; a `Conflict` with what is stored ends the import with nothing of that user, and what came before
        stays. To import the same again changes nothing.
        """
        with self._spool() as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_check, file)
            total = {"users": 0, "messages": 0, "entries": 0}
            file.seek(0)
            users = read(file)
            while (records := await asyncio.to_thread(next, users, None)) is not None:
                messages, entries = await self._take_in(Scope(user=records.user, tenant=tenant), records)
                total["users"] += 1
                total["messages"] += messages
                total["entries"] += entries
            return total

    async def _take_in(self, scope: Scope, records: UserRecords) -> tuple[int, int]:
        texts = await asyncio.to_thread(texts_of, records, self._spoken)
        vectors: dict[str, Vector] = {}
        for start in range(0, len(texts), TEXTS_PER_CALL):
            part = texts[start : start + TEXTS_PER_CALL]
            vectors |= zip(part, await self._embed(part), strict=True)
        write = partial(restore, scope=scope, records=records, vectors=vectors, spoken=self._spoken)
        done = await self._db.write(partial(write, embed_model=self._embed_model))
        for session in done.sessions:
            self._pipeline.wake(scope, session)
        return done.messages, done.entries

    def _spool(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self._db.path.parent)
        except OSError as error:
            raise StoreError(f"cannot write to {self._db.path.parent}: {error.strerror}") from error


def _write(connection: sqlite3.Connection, scope: Scope | str, file: IO[bytes]) -> None:
    """All lines into the file, in the read transaction of the connection."""
    if isinstance(scope, str):
        scopes = [Scope(user=user, tenant=scope) for user in portable.users_of(connection, scope)]
    else:
        scopes = [scope]
    rows = chain.from_iterable(portable.user_lines(connection, one) for one in scopes)
    for row in chain([portable.header(connection)], rows):
        try:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"the export cannot be written: {error.strerror}") from error


def _check(file: IO[bytes]) -> None:
    file.seek(0)
    for _ in read(file):
        pass
