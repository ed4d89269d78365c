"""What the stages have done: cursors, sensed turns, segments, parked items.

Every function takes a connection; the caller decides which of them share a transaction, so that a stage's result and
its cursor commit together.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import TURN_COLUMNS, from_blob, from_ms, select_in, to_blob, to_ms, turn_of
from lightmem_engine.types import Piece, Role, Scope, Segment, SensedTurn, Usage, Vector

SENSE = "sense"
EXTRACT = "extract"


class SessionSignals(NamedTuple):
    """What a session's segmenter needs of its last turns, in order.

    seqs, roles, speakers, vectors, attention, mass, num_tokens: one item per turn.   is_open: in no closed segment yet.
    decided: gaps before turns below this index are settled.
    """

    seqs: list[int]
    roles: list[Role]
    speakers: list[str]
    vectors: list[Vector]
    attention: list[float]
    mass: list[float]
    num_tokens: list[int]
    is_open: list[bool]
    decided: int


def cursor(connection: sqlite3.Connection, stage: str, scope: Scope) -> int:
    """The last place in the log that the stage has consumed for this user."""
    row = connection.execute(
        "SELECT seq FROM stage_cursor WHERE stage = ? AND tenant = ? AND user = ?", (stage, scope.tenant, scope.user)
    ).fetchone()
    return int(row[0]) if row else 0


def advance(connection: sqlite3.Connection, stage: str, scope: Scope, seq: int) -> None:
    """Move the cursor; it never moves back."""
    connection.execute(
        "INSERT INTO stage_cursor VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
        (stage, scope.tenant, scope.user, seq),
    )


def park(
    connection: sqlite3.Connection, stage: str, scope: Scope, item: int, error: str, attempts: int, now: datetime
) -> None:
    """Set one poison item aside, where `stats` shows it."""
    connection.execute(
        "INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?, ?, ?)",
        (stage, scope.tenant, scope.user, item, error, attempts, to_ms(now)),
    )


def save_sensed(connection: sqlite3.Connection, scope: Scope, turns: Sequence[SensedTurn]) -> None:
    """Store sensed turns with their pieces; running it twice changes nothing."""
    connection.executemany(
        "INSERT OR REPLACE INTO sensed VALUES (?, ?, ?, ?, NULL, ?, ?, ?, ?)",
        [
            (
                sensed.turn.seq,
                scope.tenant,
                scope.user,
                sensed.turn.session,
                to_blob(sensed.vector),
                _or_null(sensed.attention),
                _or_null(sensed.mass),
                sensed.num_tokens,
            )
            for sensed in turns
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO piece VALUES (?, ?, ?, ?, ?)",
        [
            (sensed.turn.seq, piece.start, piece.end, piece.compressed, to_blob(piece.vector))
            for sensed in turns
            for piece in sensed.pieces
        ],
    )
    record_changes(connection, scope, "message", [sensed.turn.seq for sensed in turns])


def sensed_turns(connection: sqlite3.Connection, seqs: Iterable[int]) -> list[SensedTurn]:
    """The sensed turns among these messages, in log order."""
    seqs = list(seqs)
    turns = {
        row[0]: turn_of(row)
        for row in select_in(connection, f"SELECT {TURN_COLUMNS} FROM message WHERE seq IN ({{in}})", seqs)
    }
    pieces: dict[int, list[Piece]] = {}
    sql = 'SELECT message, start, "end", compressed, vector FROM piece WHERE message IN ({in}) ORDER BY message, start'
    for message, start, end, compressed, vector in select_in(connection, sql, seqs):
        pieces.setdefault(message, []).append(Piece(start, end, compressed, from_blob(vector)))
    rows = select_in(
        connection,
        "SELECT message, vector, attention, mass, num_tokens FROM sensed WHERE message IN ({in}) ORDER BY message",
        seqs,
    )
    return [
        SensedTurn(
            turns[message],
            tuple(pieces.get(message, ())),
            from_blob(vector),
            _or_nan(attention),
            _or_nan(mass),
            num_tokens,
        )
        for message, vector, attention, mass, num_tokens in sorted(rows)
    ]


def session_signals(connection: sqlite3.Connection, scope: Scope, session: str, history: int) -> SessionSignals:
    """The session's open and undecided turns, and up to `history` turns before them."""
    key = (scope.tenant, scope.user, session)
    where = "s.tenant = ? AND s.user = ? AND s.session = ?"
    row = connection.execute(
        "SELECT decided_seq FROM session WHERE tenant = ? AND user = ? AND session = ?", key
    ).fetchone()
    decided_seq = row[0] if row else 0
    oldest_open = connection.execute(
        f"SELECT min(message) FROM sensed s WHERE {where} AND s.segment IS NULL", key
    ).fetchone()[0]
    first = decided_seq if oldest_open is None else min(decided_seq, oldest_open)
    before = connection.execute(
        f"SELECT min(message) FROM (SELECT message FROM sensed s WHERE {where} AND s.message < ? "
        "ORDER BY message DESC LIMIT ?)",
        (*key, first, history),
    ).fetchone()[0]
    rows = connection.execute(
        "SELECT s.message, m.role, m.speaker, s.vector, s.attention, s.mass, s.num_tokens, s.segment IS NULL "
        f"FROM sensed s JOIN message m ON m.seq = s.message WHERE {where} AND s.message >= ? ORDER BY s.message",
        (*key, first if before is None else before),
    ).fetchall()
    return SessionSignals(
        seqs=[row[0] for row in rows],
        roles=[row[1] for row in rows],
        speakers=[row[2] for row in rows],
        vectors=[from_blob(row[3]) for row in rows],
        attention=[_or_nan(row[4]) for row in rows],
        mass=[_or_nan(row[5]) for row in rows],
        num_tokens=[row[6] for row in rows],
        is_open=[bool(row[7]) for row in rows],
        decided=sum(row[0] < decided_seq for row in rows),
    )


def set_decided(connection: sqlite3.Connection, scope: Scope, session: str, seq: int) -> None:
    """Gaps before messages below `seq` are settled; it never moves back."""
    connection.execute(
        "UPDATE session SET decided_seq = max(decided_seq, ?) WHERE tenant = ? AND user = ? AND session = ?",
        (seq, scope.tenant, scope.user, session),
    )


def close_segment(
    connection: sqlite3.Connection,
    scope: Scope,
    session: str,
    seqs: Sequence[int],
    num_tokens: int,
    now: datetime,
) -> int:
    """Bind consecutive open messages to a new closed segment; returns its id."""
    row = connection.execute(
        "INSERT INTO segment (tenant, user, session, num_tokens, state, closed_ms) VALUES (?, ?, ?, ?, 'closed', ?)",
        (scope.tenant, scope.user, session, num_tokens, to_ms(now)),
    )
    segment = row.lastrowid
    assert segment is not None
    connection.executemany("UPDATE sensed SET segment = ? WHERE message = ?", [(segment, seq) for seq in seqs])
    return segment


def open_sessions(connection: sqlite3.Connection, scope: Scope | None = None) -> list[tuple[Scope, str, datetime]]:
    """Sessions that hold turns of no closed segment, and when their last message was recorded."""
    where, values = ("AND tenant = ? AND user = ?", (scope.tenant, scope.user)) if scope else ("", ())
    rows = connection.execute(
        f"""SELECT tenant, user, session, last_recorded_ms FROM session JOIN
        (SELECT DISTINCT tenant, user, session FROM sensed WHERE segment IS NULL {where}) USING (tenant, user, session)
        ORDER BY last_recorded_ms""",
        values,
    )
    return [(Scope(user=user, tenant=tenant), session, from_ms(ms)) for tenant, user, session, ms in rows]


def unsettled_sessions(connection: sqlite3.Connection) -> list[tuple[Scope, str, datetime]]:
    """Sessions with messages in no closed segment, sensed or not, and when their last message was recorded."""
    rows = connection.execute(
        """SELECT tenant, user, session, last_recorded_ms FROM session JOIN (
            SELECT tenant, user, session FROM sensed WHERE segment IS NULL
            UNION SELECT m.tenant, m.user, m.session FROM message m
            LEFT JOIN stage_cursor c ON c.stage = 'sense' AND c.tenant = m.tenant AND c.user = m.user
            WHERE m.seq > coalesce(c.seq, 0)
        ) USING (tenant, user, session) ORDER BY last_recorded_ms"""
    )
    return [(Scope(user=user, tenant=tenant), session, from_ms(ms)) for tenant, user, session, ms in rows]


def unsensed_sessions(connection: sqlite3.Connection, scope: Scope) -> set[str]:
    """The user's sessions with messages that the sensory stage has not consumed yet."""
    rows = connection.execute(
        "SELECT DISTINCT session FROM message WHERE tenant = ? AND user = ? AND seq > ?",
        (scope.tenant, scope.user, cursor(connection, SENSE, scope)),
    )
    return {session for (session,) in rows}


def closed_segments(connection: sqlite3.Connection, scope: Scope) -> list[tuple[int, int]]:
    """(id, tokens) of the user's segments that wait for extraction, oldest first."""
    rows = connection.execute(
        "SELECT id, num_tokens FROM segment WHERE tenant = ? AND user = ? AND state = 'closed' ORDER BY id",
        (scope.tenant, scope.user),
    )
    return [(id, num_tokens) for id, num_tokens in rows]


def load_segments(connection: sqlite3.Connection, scope: Scope, ids: Sequence[int]) -> list[Segment]:
    """Whole segments, in the order asked for; superseded messages left out, so one may be empty."""
    segments = []
    for id in ids:
        rows = connection.execute(
            "SELECT s.message, s.session FROM sensed s JOIN message m ON m.seq = s.message "
            "WHERE s.segment = ? AND m.superseded_ms IS NULL ORDER BY s.message",
            (id,),
        )
        found = rows.fetchall()
        turns = tuple(sensed_turns(connection, [message for message, _ in found]))
        segments.append(Segment(id, scope, found[0][1] if found else "", turns))
    return segments


def segment_messages(connection: sqlite3.Connection, scope: Scope, session: str) -> list[list[str]]:
    """The message ids of each closed segment of a session, in order."""
    rows = connection.execute(
        "SELECT s.segment, m.id FROM sensed s JOIN message m ON m.seq = s.message WHERE s.tenant = ? AND s.user = ? "
        "AND s.session = ? AND s.segment IS NOT NULL ORDER BY s.message",
        (scope.tenant, scope.user, session),
    )
    return [[id for _, id in group] for _, group in itertools.groupby(rows, key=lambda row: row[0])]


def set_segment_state(connection: sqlite3.Connection, scope: Scope, ids: Iterable[int], state: str) -> None:
    """Move segments on; their messages change for the indexes."""
    for id in ids:
        connection.execute("UPDATE segment SET state = ? WHERE id = ?", (state, id))
        messages = connection.execute("SELECT message FROM sensed WHERE segment = ?", (id,)).fetchall()
        record_changes(connection, scope, "message", [message for (message,) in messages])


def unfinished(connection: sqlite3.Connection) -> list[Scope]:
    """Users whose log or segments some stage has not consumed yet, longest waiting first."""
    rows = connection.execute(
        """SELECT tenant, user, min(since) FROM (
            SELECT m.tenant, m.user, min(m.recorded_ms) AS since FROM message m
            LEFT JOIN stage_cursor c ON c.stage = 'sense' AND c.tenant = m.tenant AND c.user = m.user
            WHERE m.seq > coalesce(c.seq, 0) GROUP BY m.tenant, m.user
            UNION ALL
            SELECT tenant, user, min(closed_ms) FROM segment WHERE state = 'closed' GROUP BY tenant, user
        ) GROUP BY tenant, user ORDER BY 3"""
    )
    return [Scope(user=user, tenant=tenant) for tenant, user, _ in rows]


def add_usage(
    connection: sqlite3.Connection, scope: Scope, stage: str, calls: int, usage: Usage, seconds: float
) -> None:
    """Count what a stage has spent on a user."""
    connection.execute(
        """INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls + excluded.calls,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens, seconds = seconds + excluded.seconds""",
        (scope.tenant, scope.user, stage, calls, usage.prompt_tokens, usage.completion_tokens, seconds),
    )


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
