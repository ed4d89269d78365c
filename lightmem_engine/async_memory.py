"""`AsyncMemory`: the library face over an engine in this process or behind a server."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from lightmem_engine.assemble import build
from lightmem_engine.client import EngineClient
from lightmem_engine.config import EngineConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import ConfigError, InvalidInput, StoreError
from lightmem_engine.messages import MessageLike, as_messages
from lightmem_engine.types import (
    EntryChange,
    Hit,
    Kind,
    MemoryEntry,
    Prompt,
    Sampling,
    Scope,
    SleepBudget,
    SleepReport,
    SleepRun,
    State,
    TurnOptions,
)

_PAGE = 500


class AsyncMemory:
    """Long-term memory. `async with AsyncMemory(config) as memory: ...` owns a data directory;
    `AsyncMemory(url="http://127.0.0.1:8000")`, or the path of a server's socket, is a client of the server that does.

    Methods raise the errors of `lightmem_engine.errors`. An instance belongs to the event loop that opened it.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        url: str | None = None,
        api_key: str | None = None,
        tenant: str = "default",
    ) -> None:
        if url is not None and config is not None:
            raise ConfigError("give a config, to own a data directory, or the url of a server, not both")
        if url is None and api_key is not None:
            raise ConfigError("an api_key is for the server at a url")
        self._config = config or EngineConfig()
        self._url = url
        self._api_key = api_key
        self._tenant = tenant
        self._engine: LocalEngine | EngineClient | None = None

    async def open(self) -> Self:
        """Load the models and take up unfinished work; a client has nothing to load. `async with` does it."""
        if self._engine is None:
            if self._url is None:
                self._engine = await build(self._config)
            else:
                self._engine = EngineClient(self._url, self._api_key, tenant=self._tenant)
        return self

    async def close(self) -> None:
        """Release the directory. What was acknowledged is on disk whether or not this is called."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def engine(self) -> LocalEngine:
        """The engine underneath; `StoreError` unless it is open in this process."""
        engine = self._open
        if not isinstance(engine, LocalEngine):
            raise StoreError("the engine runs in another process")
        return engine

    async def add(
        self,
        messages: MessageLike | Sequence[MessageLike],
        *,
        user_id: str,
        session_id: str | None = None,
        timestamp: str | float | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> list[str]:
        """Remember messages (`Message`, or mappings with its fields). Returns their ids once they are on disk."""
        return await self._open.add(
            self._scope(user_id),
            as_messages(messages),
            session=session_id,
            timestamp=timestamp,
            metadata=metadata,
            wait=wait,
        )

    async def search(
        self,
        query: str,
        *,
        user_id: str,
        top_k: int = 10,
        max_tokens: int | None = None,
        as_of: datetime | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """What is remembered on a question, best first."""
        return await self._open.search(
            self._scope(user_id), query, top_k=top_k, max_tokens=max_tokens, as_of=as_of, filters=filters
        )

    async def get(self, id: str, *, user_id: str) -> MemoryEntry:
        """An entry as it stands, by the id of a hit. Raises `NotFound`."""
        return await self._open.get(self._scope(user_id), id)

    async def get_all(
        self,
        *,
        user_id: str,
        session_id: str | None = None,
        kind: Kind | None = None,
        state: State | None = None,
    ) -> list[MemoryEntry]:
        """All that is remembered of a user: first what is pending, then entries in the order they were made in."""
        found: list[MemoryEntry] = []
        cursor: str | None = None
        while True:
            page = await self._open.entries(
                self._scope(user_id), limit=_PAGE, cursor=cursor, state=state, kind=kind, session=session_id
            )
            found += page.entries
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def update(
        self,
        id: str,
        *,
        user_id: str,
        text: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        if_version: int | None = None,
    ) -> MemoryEntry:
        """Make a new version of an entry; the old one stays in its history. Keys of `metadata` are set, those whose
        value is None go. Raises `NotFound`, and `Conflict` if it is not at `if_version` or still pending."""
        if isinstance(tags, str):
            raise InvalidInput("tags must be a list of strings")
        change = EntryChange(text, None if tags is None else tuple(tags), metadata, if_version)
        return await self._open.update(self._scope(user_id), id, change)

    async def delete(self, id: str, *, user_id: str) -> None:
        """Delete an entry with its history and its words. Raises `NotFound`."""
        await self._open.delete(self._scope(user_id), id)

    async def delete_all(self, *, user_id: str) -> dict[str, int]:
        """Erase a user: when it returns no byte is left. Says how many messages, entries and rows there were."""
        return await self._open.erase(self._scope(user_id))

    async def history(self, id: str, *, user_id: str) -> list[MemoryEntry]:
        """All versions of an entry, oldest first. Raises `NotFound`."""
        return await self._open.history(self._scope(user_id), id)

    async def users(self) -> list[dict[str, Any]]:
        """Everybody of whom something is stored, by name, with counts."""
        found, cursor = await self._open.users(self._tenant, limit=_PAGE)
        while cursor is not None:
            more, cursor = await self._open.users(self._tenant, limit=_PAGE, cursor=cursor)
            found += more
        return found

    async def export(self, *, user_id: str | None = None) -> AsyncIterator[bytes]:
        """One user's memory, or everybody's, as it stands now: JSON Lines, in chunks of bytes."""
        async for chunk in self._open.export(self._tenant, user_id):
            yield chunk

    async def import_(self, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> dict[str, int]:
        """Take in what `export` gave; an open binary file will do. `import` alone is a word of Python, hence the
        underscore. Raises `InvalidInput` that names a bad line, and `Conflict`; see `pipeline.porter`."""
        given = chunks if isinstance(chunks, AsyncIterable) else _passed_on(chunks)
        return await self._open.import_(self._tenant, given)

    async def flush(self, *, user_id: str | None = None) -> dict[str, Any]:
        """Wait until all that was added is long-term memory or parked; returns `stats`."""
        return await self._open.flush(None if user_id is None else self._scope(user_id))

    async def sleep(
        self,
        *,
        user_id: str | None = None,
        wait: bool = True,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
    ) -> SleepRun:
        """Let newer memories change older ones, of one user or of all; with `wait`, once the run has ended.

        Of the limits, 0 is none, and what is not given is as configured.
        """
        budget = SleepBudget(max_calls, max_tokens, max_seconds)
        return await self._open.sleep(self._tenant, user_id, budget=budget, wait=wait)

    async def sleep_run(self, id: str) -> SleepReport:
        """A run with its changes, old and new texts. Raises `NotFound`."""
        return await self._open.sleep_run(self._tenant, id)

    async def sleep_runs(self, *, user_id: str | None = None) -> list[SleepRun]:
        """The newest runs, the newest first."""
        return await self._open.sleep_runs(self._tenant, user_id)

    async def kv_stats(self) -> dict[str, Any]:
        """What is kept of KV caches, and what has been counted since the start."""
        return await self._open.kv_stats()

    async def kv_verify(self) -> dict[str, int]:
        """Read every chunk of the kept KV caches; damaged ones are removed. Counts `ok`, `damaged`, `unreadable`."""
        return await self._open.kv_verify()

    async def kv_purge(self, *, user_id: str | None = None) -> int:
        """Remove the kept KV caches of a user, or of the tenant; how many there were. No memory is lost by it."""
        return await self._open.kv_purge(self._tenant, user_id)

    async def rollback(self, id: str) -> SleepRun:
        """Undo a run of sleep. Raises `Conflict`, and does nothing, if what it touched has changed since."""
        return await self._open.rollback(self._tenant, id)

    async def stats(self, *, user_id: str | None = None) -> dict[str, Any]:
        """Counts, what waits, what is parked and why."""
        return await self._open.stats(None if user_id is None else self._scope(user_id))

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, user_id: str, session_id: str | None = None, **sampling: Any
    ) -> str:
        """The model's answer with memory in its prompt; both sides are remembered. `sampling`: see `Sampling`."""
        engine = self._open
        if isinstance(engine, EngineClient):
            return await engine.chat(self._scope(user_id), messages, session_id, Sampling(**sampling))
        scope = self._scope(user_id)
        turn = await engine.open_turn(scope, messages, TurnOptions(session=session_id))
        prompt = Prompt(turn.messages, salt=turn.salt, owner=turn.owner)
        reply, status = "", "partial"
        try:
            async for delta in engine.answer(prompt, Sampling(**sampling)):
                reply += delta.text
            status = "complete"
        finally:
            await engine.close_turn(turn.turn_id, reply, status)
        return reply

    @property
    def _open(self) -> LocalEngine | EngineClient:
        if self._engine is None:
            raise StoreError("the memory is not open")
        return self._engine

    def _scope(self, user_id: str) -> Scope:
        return Scope(user=user_id, tenant=self._tenant)


async def _passed_on(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
