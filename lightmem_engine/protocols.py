"""The seams: what the stages ask of models, and of time.

Batch first. Synchronous where the work is compute (it runs on the device worker), async where it waits for others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from lightmem_engine.types import (
    Columns,
    Completion,
    Delta,
    Floats,
    Hit,
    IndexDoc,
    Priority,
    Prompt,
    Sampling,
    Scope,
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

    def waiting(self) -> Sequence[IndexDoc]:
        """A bounded number of live documents without a vector, the newest of them, oldest first; long texts are cut.
        Only key, ref, speaker and text are filled in."""
        ...

    def lend(self, docs: Sequence[IndexDoc], vectors: Vectors | None) -> None:
        """Give documents from `waiting` vectors to go by until their own arrive; None: stop asking for these."""
        ...


class Clock(Protocol):
    """Time that tests can turn by hand."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back."""
        ...
