"""Single memories by hand: read, listed, changed, deleted; and a user forgotten whole."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from lightmem_engine.errors import InvalidInput
from lightmem_engine.protocols import Clock
from lightmem_engine.stores import curate, delete, erase, listing, scrub
from lightmem_engine.stores.memory_db import MemoryDB, snapshot
from lightmem_engine.stores.reembed import Spoken, embedded_text
from lightmem_engine.types import KINDS, STATES, EntryChange, EntryPage, Kind, MemoryEntry, Scope, State, Vectors

T = TypeVar("T")
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
MAX_PAGE = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Caches:
    """What lives in memory of users' words, and how to drop it.

    some: after part of a user's words went.   whole: after all of them.   prompts: what a language model has read.
    """

    some: Callable[[Scope], None]
    whole: Callable[[Scope], None]
    prompts: Callable[[], Awaitable[None]]


class Curator:
    """Reads and changes over one database. Belongs to one event loop."""

    def __init__(
        self, db: MemoryDB, embed: Embed, embed_model: str, spoken: Spoken, clock: Clock, caches: Caches
    ) -> None:
        """embed: texts to vectors, for somebody who waits.   spoken: how (speaker, words) are written for it."""
        self._db = db
        self._embed = embed
        self._embed_model = embed_model
        self._spoken = spoken
        self._clock = clock
        self._caches = caches
        self._scrubbing = asyncio.Lock()
        self._next_scrub: asyncio.Task[None] | None = None

    async def get(self, scope: Scope, id: str) -> MemoryEntry:
        """An entry as it stands, or a pending message under the id of its hit. Raises `NotFound`."""
        return await self._db.read(snapshot(partial(curate.get, scope=scope, id=id)))

    async def history(self, scope: Scope, id: str) -> list[MemoryEntry]:
        """All versions, oldest first. Raises `NotFound`."""
        return await self._db.read(snapshot(partial(curate.history, scope=scope, id=id)))

    async def entries(
        self,
        scope: Scope,
        *,
        limit: int = 100,
        cursor: str | None = None,
        state: State | None = None,
        kind: Kind | None = None,
        session: str | None = None,
    ) -> EntryPage:
        """A page of what is remembered, see `stores.listing`."""
        _check_limit(limit)
        for name, value, known in (("state", state, STATES), ("kind", kind, KINDS)):
            if value is not None and value not in known:
                raise InvalidInput(f"{name} must be one of {', '.join(known)}")
        wanted = partial(listing.page, limit=limit, cursor=cursor, state=state, kind=kind, session=session)
        page: EntryPage = await self._db.read(snapshot(partial(wanted, scope=scope)))
        return page

    async def users(
        self, tenant: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of a tenant's users, and where the next one begins."""
        _check_limit(limit)
        return await self._db.read(snapshot(partial(listing.users, tenant=tenant, limit=limit, cursor=cursor)))

    async def update(self, scope: Scope, id: str, change: EntryChange) -> MemoryEntry:
        """Make a new version of an entry. Raises `NotFound`, `InvalidInput`, `Conflict`."""
        check_change(change)
        entry = await self.get(scope, id)
        vector = None
        if change.text is not None and entry.state != "pending":
            text = embedded_text(entry.kind, entry.speaker, change.text, None, self._spoken)
            vector = (await self._embed([text]))[0]
        now = self._clock.now()
        write = partial(curate.patch, scope=scope, id=id, change=change, vector=vector, now=now)
        return await self._db.write(partial(write, embed_model=self._embed_model))

    async def delete(self, scope: Scope, id: str) -> None:
        """Delete an entry with its history and its words, in every file and cache. Raises `NotFound`."""
        await _through(self._delete(scope, id))

    async def erase(self, scope: Scope) -> dict[str, int]:
        """Delete everything of a user, in every file and cache; returns what there was. Again is harmless."""
        return await _through(self._erase(scope))

    async def _delete(self, scope: Scope, id: str) -> None:
        self._caches.some(scope)  # before and after, as for a whole user
        await self._db.write(partial(delete.delete_entry, scope=scope, id=id))
        self._caches.some(scope)
        await self._caches.prompts()
        await self._scrub()

    async def _erase(self, scope: Scope) -> dict[str, int]:
        self._caches.whole(scope)  # first, so that a turn that is open now stores nothing any more
        deleted = await self._db.write(partial(erase.erase_user, scope=scope))
        self._caches.whole(scope)
        await self._caches.prompts()
        if deleted["rows"] or await self._db.read(scrub.is_due):
            await self._scrub()
        return deleted

    async def _scrub(self) -> None:
        """Wait for a scrub that begins after now; all who wait share one."""
        if self._next_scrub is None:
            self._next_scrub = asyncio.create_task(self._one_scrub())
        await self._next_scrub

    async def _one_scrub(self) -> None:
        async with self._scrubbing:
            self._next_scrub = None
            await scrub.scrub(self._db.write_alone)


def check_change(change: EntryChange) -> None:
    """A change that says something and can be stored, or `InvalidInput`."""
    if change.text is None and change.tags is None and change.metadata is None:
        raise InvalidInput("nothing to change: give text, tags or metadata")
    if change.text is not None and not (isinstance(change.text, str) and change.text.strip()):
        raise InvalidInput("text must be a non-empty string")
    for tag in change.tags or ():
        if not (isinstance(tag, str) and tag.strip()):
            raise InvalidInput("tags must be non-empty strings")
    if change.metadata is not None and not isinstance(change.metadata, Mapping):
        raise InvalidInput("metadata must be an object")
    _check_storable([change.text, change.tags, change.metadata])


def _check_storable(value: Any) -> None:
    """Plain JSON without halves of character pairs and numbers that are none, or `InvalidInput`."""
    match value:
        case None | bool() | int():
            return
        case str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InvalidInput(f"a text holds half a character pair at {error.start}") from error
        case float() if math.isfinite(value):
            return
        case list() | tuple():
            for item in value:
                _check_storable(item)
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput("the keys of metadata must be strings")
                _check_storable(key)
                _check_storable(item)
        case _:
            raise InvalidInput(f"{value!r} cannot be stored as JSON")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit must be between 1 and {MAX_PAGE}")


async def _through(work: Awaitable[T]) -> T:
    """Finish `work` even if its caller goes away: half an erasure is none."""
    return await asyncio.shield(asyncio.ensure_future(work))
