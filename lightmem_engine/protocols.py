"""The seams: what the stages ask of models, and of time.

Batch first. Synchronous where the work is compute (it runs on the device worker), async where it waits for others.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from lightmem_engine.protocols_kv import KeepsCaches
from lightmem_engine.types import (
    Columns,
    Completion,
    Delta,
    EntryChange,
    EntryPage,
    Floats,
    Hit,
    IndexDoc,
    Kind,
    MemoryEntry,
    Message,
    OpenTurn,
    Priority,
    Prompt,
    Sampling,
    Scope,
    SleepBudget,
    SleepReport,
    SleepRun,
    State,
    TurnOptions,
    Vector,
    Vectors,
    Window,
    WindowScores,
)


class TokenClassifier(Protocol):
    """Says which words of a window deserve to be kept, and how its texts attend to each other."""

    name: str
    max_tokens: int  # of one window, special tokens included

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        ...

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One pass over all windows. A window longer than `max_tokens` raises `InvalidInput`."""
        ...


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    name: str  # identifies the vector space: equal names, comparable vectors
    dim: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim] with unit rows; text beyond the model's length is cut."""
        ...


class LanguageModel(Protocol):
    """Writes text. Implementations wait for their own device or server; a failure is `ModelError` or
    `BackendUnavailable`."""

    name: str

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        """One completion per prompt; a prompt with a schema gets text that satisfies it or was cut by length."""
        ...

    def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncIterator[Delta]:
        """The answer piece by piece; closing the iterator cancels the work."""
        ...

    async def aclose(self) -> None:
        """Release the device or the connections."""
        ...


@runtime_checkable
class Forgetful(Protocol):
    """A model that keeps what it has read for later calls."""

    async def forget(self) -> None:
        """Drop all of it."""
        ...


class Feed(Protocol):
    """What recall asks of the durable store."""

    async def changes(self, scope: Scope, since_seq: int) -> tuple[Sequence[IndexDoc], int]:
        """What changed after `since_seq`, in order, and the number to ask from next time.

        Since 0: the user's full current state, puts only. A change may be delivered twice, never left out.
        """
        ...

    async def hydrate(self, scope: Scope, refs: Sequence[str]) -> Mapping[str, Hit]:
        """What a reader gets for each ref, as it stands now, with score 0; a ref that no longer exists is absent."""
        ...


class SearchIndex(Protocol):
    """The derived index of one user. Not thread-safe: one call at a time."""

    @property
    def applied_seq(self) -> int:
        """The feed's number up to which changes are in."""
        ...

    def __len__(self) -> int:
        """Live documents."""
        ...

    def apply(self, docs: Iterable[IndexDoc], seq: int) -> None:
        """Take in changes in order; afterwards `applied_seq` is `seq`. Applying a change again changes nothing."""
        ...

    def check(self) -> None:
        """Raise `CorruptStore` if the parts of the index contradict each other."""
        ...

    def columns(self) -> Columns:
        """Attributes by slot."""
        ...

    def lexical(self, terms: Sequence[str]) -> Floats:
        """float32 [slots]; at least 0, unbounded, 0 where no term occurs."""
        ...

    def cosine(self, vector: Vector) -> Floats:
        """float32 [slots]; nan where a document has no vector yet."""
        ...

    def graph(self, words: Sequence[str], *, far: bool) -> Floats:
        """float32 [slots]; at most 1, how near a document is to names among `mentions.words`; far: over others."""
        ...

    def waiting(self) -> Sequence[IndexDoc]:
        """A bounded number of live documents without a vector, the newest of them, oldest first; long texts are cut.
        Only key, ref, speaker and text are filled in."""
        ...

    def lend(self, docs: Sequence[IndexDoc], vectors: Vectors | None) -> None:
        """Give documents from `waiting` vectors to go by until their own arrive; None: stop asking for these."""
        ...


class Engine(KeepsCaches, Protocol):
    """The memory of one data directory, owned by this process (`engine.LocalEngine`) or reached over its server
    (`client.EngineClient`). Methods raise the errors of `lightmem_engine.errors`."""

    async def add(
        self,
        scope: Scope,
        messages: Sequence[Message],
        *,
        session: str | None = None,
        timestamp: str | float | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> list[str]:
        """Log messages; returns their ids once they are on disk. With `wait`, once they are long-term memory."""
        ...

    async def search(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int = 10,
        max_tokens: int | None = None,
        as_of: datetime | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """What this user's memory holds on a question, best first."""
        ...

    async def get(self, scope: Scope, id: str) -> MemoryEntry:
        """An entry as it stands, or a pending message under the id of its hit."""
        ...

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
        """A page of what is remembered: first what is pending, then entries in the order in which they were made."""
        ...

    async def history(self, scope: Scope, id: str) -> list[MemoryEntry]:
        """All versions of an entry, oldest first."""
        ...

    async def update(self, scope: Scope, id: str, change: EntryChange) -> MemoryEntry:
        """Make a new version of an entry."""
        ...

    async def delete(self, scope: Scope, id: str) -> None:
        """Delete an entry with its history and its words."""
        ...

    async def erase(self, scope: Scope) -> dict[str, int]:
        """Delete everything of a user; returns how many messages, entries and rows there were."""
        ...

    async def users(
        self, tenant: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of a tenant's users by name, and where the next one begins."""
        ...

    def export(self, tenant: str, user: str | None = None) -> AsyncIterator[bytes]:
        """The lines of an export of one user, or of all users of a tenant, as they stood at one moment."""
        ...

    async def import_(self, tenant: str, chunks: AsyncIterable[bytes]) -> dict[str, int]:
        """Take in an export. Its name ends in an underscore because `import` is a word of Python."""
        ...

    async def sleep(
        self, tenant: str, user: str | None = None, *, budget: SleepBudget | None = None, wait: bool = True
    ) -> SleepRun:
        """Start a run of sleep over one user or all; with `wait`, return it once it has ended."""
        ...

    async def sleep_run(self, tenant: str, id: str) -> SleepReport:
        """A run with its changes."""
        ...

    async def sleep_runs(self, tenant: str, user: str | None = None, *, limit: int = 100) -> list[SleepRun]:
        """The newest runs, the newest first."""
        ...

    async def rollback(self, tenant: str, id: str) -> SleepRun:
        """Undo a run."""
        ...

    async def flush(self, scope: Scope | None = None) -> dict[str, Any]:
        """Wait until all that was logged is long-term memory or parked; returns `stats`."""
        ...

    async def stats(self, scope: Scope | None = None) -> dict[str, Any]:
        """Counts, what waits, what is parked and why."""
        ...

    async def open_turn(
        self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions
    ) -> OpenTurn:
        """Begin a chat turn: recall, place, and log the user's new words."""
        ...

    async def close_turn(
        self,
        turn_id: str,
        reply: str,
        status: str,
        *,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
    ) -> bool:
        """End a chat turn: log the reply; `status` is `complete` or `partial`. Says whether it is on disk."""
        ...

    def foreground(self) -> AbstractAsyncContextManager[None]:
        """Hold while a user waits; background work steps aside."""
        ...

    async def aclose(self) -> None:
        """Let go of the directory, or of the connections."""
        ...


class Clock(Protocol):
    """Time that tests can turn by hand."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back."""
        ...
