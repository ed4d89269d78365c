"""Between rows and nouns: times, vectors, turns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np

from lightmem_engine.types import Scope, Turn, Vector

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
# SQLite's default limit on the variables of one statement is 32766; stay far below it.
MAX_VARIABLES = 500

TURN_COLUMNS = "seq, tenant, user, id, session, role, speaker, content, event_ms, offset_s, recorded_ms, metadata"


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970, exact for every aware datetime."""
    return (moment - EPOCH) // MILLISECOND


def offset_of(moment: datetime) -> int:
    """The UTC offset in seconds."""
    offset = moment.utcoffset()
    return int(offset.total_seconds()) if offset else 0


def from_ms(milliseconds: int, offset_s: int = 0) -> datetime:
    """The moment, shown with the given UTC offset."""
    zone = timezone(timedelta(seconds=offset_s)) if offset_s else UTC
    return (EPOCH + milliseconds * MILLISECOND).astimezone(zone)


def to_blob(vector: Vector) -> bytes:
    """float32 little-endian bytes."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def from_blob(blob: bytes) -> Vector:
    """The vector of `to_blob`."""
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)


def to_json(value: Any) -> str:
    """Compact JSON; the caller has checked that the value is JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def turn_of(row: Sequence[Any]) -> Turn:
    """A row of `TURN_COLUMNS`."""
    seq, tenant, user, id, session, role, speaker, content, event_ms, offset_s, recorded_ms, metadata = row
    return Turn(
        seq=seq,
        id=id,
        scope=Scope(user=user, tenant=tenant),
        session=session,
        role=role,
        speaker=speaker,
        text=content,
        event_time=from_ms(event_ms, offset_s),
        recorded_at=from_ms(recorded_ms),
        metadata=json.loads(metadata),
    )


def select_in(connection: sqlite3.Connection, sql: str, values: Iterable[Any], *fixed: Any) -> list[Any]:
    """All rows of `sql`, whose `{in}` is filled with the values, a few hundred at a time; `fixed` come first."""
    values = list(values)
    rows: list[Any] = []
    for start in range(0, len(values), MAX_VARIABLES):
        part = values[start : start + MAX_VARIABLES]
        rows += connection.execute(sql.replace("{in}", ",".join("?" * len(part))), (*fixed, *part)).fetchall()
    return rows
