"""One training or exam example, and how many of which difficulty. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightmem_engine.training.values import Split

Task = Literal["chat", "refuse", "plain", "decide", "extract"]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation in which every assistant message is to be learned.

    messages: OpenAI-style, ending with the assistant's answer.   tasks: what each answer is an instance of.
    schema: the JSON Schema of the last answer, if it has one.   is_live: each answer follows the generation prompt, as
    it did when it was the live turn, instead of only the last one.
    """

    messages: tuple[Mapping[str, Any], ...]
    tasks: tuple[Task, ...]
    schema: Mapping[str, Any] | None = None
    is_live: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Level:
    """How hard the examples are. lines, questions, turns, notes: least and most."""

    lines: tuple[int, int]
    questions: tuple[int, int]
    noise: float
    updates: float  # share of keys told twice, with different values
    weights: Mapping[str, float]  # task -> share of the examples
    notes: tuple[int, int] = (2, 4)
    turns: tuple[int, int] = (1, 3)
    exact: float = 0.8  # share of answered questions, smoothed, at which the next level begins


LEVELS = (
    Level((1, 2), (1, 2), 0.0, 0.0, {"induction": 0.4, "chat": 0.6}, exact=0.5),
    Level((2, 5), (3, 6), 0.0, 0.0, {"chat": 0.95, "plain": 0.05}, exact=0.8),
    Level((2, 8), (3, 6), 0.4, 0.2, {"chat": 0.75, "plain": 0.05, "decide": 0.15, "extract": 0.05}),
    Level((3, 14), (4, 8), 0.7, 0.25, {"chat": 0.6, "plain": 0.05, "decide": 0.2, "extract": 0.15}, (2, 6), (2, 6)),
    Level((4, 32), (4, 12), 0.8, 0.25, {"chat": 0.55, "plain": 0.05, "decide": 0.2, "extract": 0.2}, (2, 8), (3, 10)),
)


@dataclass(frozen=True, slots=True)
class Draw:
    """What every task generator is given."""

    rng: random.Random
    split: Split
    level: Level

    def between(self, bounds: tuple[int, int]) -> int:
        """A whole number within the bounds."""
        return self.rng.randint(*bounds)
