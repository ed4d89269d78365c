"""The seams: what the stages ask of models, and of time.

Batch first. Synchronous where the work is compute (it runs on the device worker), async where it waits for others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from lightmem_engine.types import Completion, Delta, Priority, Prompt, Sampling, Vectors, Window, WindowScores


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


class Clock(Protocol):
    """Time that tests can turn by hand."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back."""
        ...
