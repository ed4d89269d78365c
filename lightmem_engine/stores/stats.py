"""What is stored, what waits, what is parked and why, what it has cost."""

from __future__ import annotations

import sqlite3
from typing import Any

from lightmem_engine.stores.rows import from_ms
from lightmem_engine.types import Scope

# A message is pending until a stage has passed over it (system and tool messages), its segment is settled, or a later
# branch of its conversation has superseded it.
_PENDING = """
SELECT count(*) FROM message m LEFT JOIN sensed s ON s.message = m.seq LEFT JOIN segment g ON g.id = s.segment
WHERE {where} AND m.superseded_ms IS NULL AND coalesce(g.state, 'closed') = 'closed' AND (
    s.message IS NOT NULL OR m.seq > coalesce(
    (SELECT c.seq FROM stage_cursor c WHERE c.stage = 'sense' AND c.tenant = m.tenant AND c.user = m.user), 0))
"""


def stats(connection: sqlite3.Connection, scope: Scope | None) -> dict[str, Any]:
    """Counts of one user, or of everybody."""
    where, key = ("m.tenant = ? AND m.user = ?", (scope.tenant, scope.user)) if scope else ("1", ())

    def one(sql: str) -> int:
        return int(connection.execute(sql.replace("{where}", where), key).fetchone()[0])

    return {
        "users": one("SELECT count(*) FROM (SELECT DISTINCT tenant, user FROM message m WHERE {where})"),
        "messages": one("SELECT count(*) FROM message m WHERE {where}"),
        "entries": one("SELECT count(DISTINCT id) FROM entry m WHERE {where}"),
        "pending": one(_PENDING),
        "parked": _parked(connection, where, key),
        "usage": _usage(connection, where, key),
    }


def _parked(connection: sqlite3.Connection, where: str, key: tuple[str, ...]) -> list[dict[str, Any]]:
    columns = "stage, tenant, user, item, error, attempts, parked_ms"
    rows = connection.execute(f"SELECT {columns} FROM parked m WHERE {where} ORDER BY parked_ms", key)
    return [
        {
            "stage": stage,
            "tenant": tenant,
            "user_id": user,
            "item": item,
            "error": error,
            "attempts": attempts,
            "since": from_ms(parked_ms).isoformat(),
        }
        for stage, tenant, user, item, error, attempts, parked_ms in rows
    ]


def _usage(connection: sqlite3.Connection, where: str, key: tuple[str, ...]) -> dict[str, dict[str, float]]:
    columns = "stage, sum(calls), sum(prompt_tokens), sum(completion_tokens), sum(seconds)"
    rows = connection.execute(f"SELECT {columns} FROM usage m WHERE {where} GROUP BY stage", key)
    return {
        stage: {"calls": calls, "prompt_tokens": prompt, "completion_tokens": completion, "seconds": seconds}
        for stage, calls, prompt, completion, seconds in rows
    }
