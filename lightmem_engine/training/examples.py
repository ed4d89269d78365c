"""One training or exam example, and how many of which difficulty. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightmem_engine.training.values import Split

Task = Literal["chat", "refuse", "plain", "decide", "alike", "extract"]


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
    exact: float = 0.78  # share of answered questions, smoothed, at which the next level begins


# An example of chat is three times as long as one of the others, so shares of examples are not shares of what is read.
LEVELS = (
    Level((1, 2), (1, 2), 0.0, 0.0, {"induction": 0.4, "chat": 0.6}, exact=0.5),
    Level((2, 5), (3, 6), 0.0, 0.0, {"chat": 0.4, "plain": 0.05, "decide": 0.35, "extract": 0.2}, (2, 3), (1, 2), 0.75),
    Level(
        (2, 8),
        (3, 6),
        0.4,
        0.2,
        {"chat": 0.32, "plain": 0.03, "decide": 0.3, "alike": 0.1, "extract": 0.25},
        exact=0.77,
    ),
    Level(
        *((3, 14), (4, 8), 0.7, 0.3, {"chat": 0.26, "plain": 0.03, "decide": 0.23, "alike": 0.22, "extract": 0.26}),
        *((2, 5), (2, 6)),
    ),
    Level(
        *((4, 32), (4, 12), 0.8, 0.35, {"chat": 0.25, "plain": 0.02, "decide": 0.18, "alike": 0.33, "extract": 0.22}),
        *((2, 6), (2, 8)),
    ),
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


def compact(value: Any) -> str:
    """JSON as the grammar forces it: no white space, keys in the order of the schema."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
