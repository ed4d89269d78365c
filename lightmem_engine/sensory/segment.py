"""Where a conversation changes its topic. Pure numpy, no state: the same turns give the same answer, ever again.

A gap lies before each *unit*: a user turn with the replies to it, or a single turn where people talk among themselves.
Live, a gap is decided as soon as `lookahead` units after it are complete, from the units up to there and no further
back than `HISTORY`; so neither the batches in which turns arrive nor a restart change what is decided.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightmem_engine.config_sensory import SegmentConfig
from lightmem_engine.sensory.hybrid import Series, hybrid_boundaries, unit_rows
from lightmem_engine.sensory.paper import paper_boundaries
from lightmem_engine.types import Role, SensedTurn, Vector

HISTORY = 128  # turns that one decision looks at, the look-ahead included


@dataclass(frozen=True, slots=True)
class TurnSignal:
    """What segmentation needs to know of a turn; the fields are those of `Turn` and `SensedTurn`."""

    role: Role
    speaker: str
    vector: Vector
    attention: float
    mass: float


@dataclass(frozen=True, slots=True)
class Decision:
    """`boundaries`: turns that begin a new segment, ascending, among the gaps decided by this call. The gaps before all
    turns below `decided` are settled for good."""

    boundaries: tuple[int, ...]
    decided: int


def signal(sensed: SensedTurn) -> TurnSignal:
    """The part of a sensed turn that segmentation reads; store these five and a session can be taken up again."""
    turn = sensed.turn
    return TurnSignal(turn.role, turn.speaker, sensed.vector, sensed.attention, sensed.mass)


def decide(turns: Sequence[TurnSignal], config: SegmentConfig, *, decided: int = 1, final: bool = False) -> Decision:
    """Settle the gaps that can be settled now.

    turns: a session's turns in order, from its beginning or from at least `HISTORY` turns before the first gap that is
        undecided.
    decided: gaps before turns below this one are settled already; take it from the previous `Decision` and shift it if
        older turns were dropped. The gap before the first turn is none.
    final: settle all gaps with what there is (the session fell silent, or a flush).
    """
    starts = unit_starts(turns)
    evaluate = _evaluator(config)
    # The last unit is complete only when the next one has begun.
    complete = len(starts) if final else len(starts) - 1
    found: list[int] = []
    upto = max(1, decided)
    for gap in range(1, len(starts)):
        if starts[gap] < decided:
            continue
        if gap + config.lookahead > complete and not final:
            break
        end = min(gap + config.lookahead, len(starts))
        end_turn = starts[end] if end < len(starts) else len(turns)
        first = min(bisect_left(starts, end_turn - HISTORY), gap - 1)
        if gap - first in evaluate(_units(turns, starts, first, end)):
            found.append(starts[gap])
        upto = starts[gap] + 1
    return Decision(tuple(found), len(turns) if final else upto)


def document_boundaries(turns: Sequence[TurnSignal], config: SegmentConfig) -> list[int]:
    """All boundaries of a finished conversation, each decided with the whole of it in view."""
    starts = unit_starts(turns)
    if not starts:
        return []
    return [starts[gap] for gap in sorted(_evaluator(config)(_units(turns, starts, 0, len(starts))))]


def unit_starts(turns: Sequence[TurnSignal]) -> list[int]:
    """The turns that begin a unit. A reply is what an unnamed assistant or a tool says."""
    return [i for i, turn in enumerate(turns) if i == 0 or not _is_reply(turn)]


def _is_reply(turn: TurnSignal) -> bool:
    return turn.role in ("assistant", "tool") and turn.speaker == turn.role


@dataclass(frozen=True, slots=True)
class _Units:
    """vectors: float64 [n, dim], unit rows.   attention, mass: float64 [n], of each unit's first turn."""

    vectors: Series
    attention: Series
    mass: Series


def _units(turns: Sequence[TurnSignal], starts: Sequence[int], first: int, end: int) -> _Units:
    ends = [*starts[1:], len(turns)]
    means = [np.mean([turn.vector for turn in turns[starts[u] : ends[u]]], axis=0) for u in range(first, end)]
    heads = [turns[starts[u]] for u in range(first, end)]
    return _Units(
        unit_rows(np.asarray(means, np.float64)),
        np.array([turn.attention for turn in heads], np.float64),
        np.array([turn.mass for turn in heads], np.float64),
    )


def _evaluator(config: SegmentConfig) -> Callable[[_Units], set[int]]:
    """The function from units to those that begin a segment."""
    if config.mode == "paper":
        return lambda units: paper_boundaries(units.attention[1:], units.vectors, index=config.paper_index)
    return lambda units: hybrid_boundaries(units.vectors, units.mass)
