"""What the sensory stage makes of turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lightmem_engine.types.base import Floats, Vector
from lightmem_engine.types.conversation import Scope, Turn


class Word(NamedTuple):
    """A word of a turn: characters [start, end) of its text, and how much it deserves to be kept (any scale)."""

    start: int
    end: int
    keep: float


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive texts that one classifier pass reads together; the first `num_context` are only context.

    `document_frequency` counts, per term, the messages of this user that contain it; `num_documents` is how many
    were counted. Classifiers that weigh rarity read it, others ignore it.
    """

    texts: tuple[str, ...]
    num_context: int = 0
    document_frequency: Mapping[str, int] = field(default_factory=dict)
    num_documents: int = 0


@dataclass(frozen=True, slots=True)
class WindowScores:
    """What one pass says of a window.

    words: per text its words in order (empty for context texts).
    attention: float32 [n]; attention[i] = attention mass from text i to text i-1, divided by its mass to all
        earlier texts of the window (nan for i = 0 and where there is no mass).
    mass: float32 [n]; of the attention mass from text i to texts i-1 and i, the share that goes to i-1 (nan for i = 0
        and where there is no mass). It hardly depends on what else the window holds.
    """

    words: tuple[tuple[Word, ...], ...]
    attention: Floats
    mass: Floats


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one turn, small enough to be one entry: characters [start, end) of the turn's text."""

    start: int
    end: int
    compressed: str  # never empty if the stretch has a visible character
    vector: Vector  # of the original stretch, embedded alone


@dataclass(frozen=True, slots=True)
class SensedTurn:
    """A turn after the sensory stage."""

    turn: Turn
    pieces: tuple[Piece, ...]
    vector: Vector  # of the whole turn: the normalised mean of its pieces
    attention: float  # to the previous turn, as WindowScores.attention; nan if there was none
    mass: float  # as WindowScores.mass
    num_tokens: int  # of the compressed text


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive turns of one session about one topic."""

    id: int
    scope: Scope
    session: str
    turns: tuple[SensedTurn, ...]
