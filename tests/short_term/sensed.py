"""Sensed turns for tests, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from lightmem_engine.types import Piece, Role, Scope, Segment, SensedTurn, Turn

SCOPE = Scope("ann")
NOON = datetime(2023, 5, 8, 12, tzinfo=UTC)


def sensed(
    seq: int,
    text: str,
    *,
    speaker: str = "Ann",
    role: Role = "user",
    pieces: list[tuple[int, int, str]] | None = None,
    session: str = "s",
    at: datetime | None = None,
) -> SensedTurn:
    """A turn whose pieces are (start, end, compressed), by default one piece that is the whole text."""
    turn = Turn(
        seq=seq,
        id=f"m{seq}",
        scope=SCOPE,
        session=session,
        role=role,
        speaker=speaker,
        text=text,
        event_time=at or NOON + timedelta(seconds=seq),
        recorded_at=NOON,
        metadata={"n": seq},
    )
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    cut = tuple(Piece(start, end, short, vector) for start, end, short in pieces or [(0, len(text), text)])
    tokens = sum(len(piece.compressed.split()) for piece in cut)
    return SensedTurn(turn, cut, vector, float("nan"), float("nan"), tokens)


def segment(*turns: SensedTurn, id: int = 1) -> Segment:
    """A segment of these turns."""
    return Segment(id, SCOPE, turns[0].turn.session, turns)
