"""Forgetting: entries that are too old or too many go out of sight, and come back with a rollback until they are gone.

What a run hides keeps its text, its sources and its place; it is no longer recalled, but still found as of a moment at
which it held. Once it has been hidden for as long as it is kept, it is deleted with its words.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta

from lightmem_engine.stores import runs
from lightmem_engine.stores.delete import delete_entry
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import to_ms
from lightmem_engine.stores.versions import advance
from lightmem_engine.text import search_terms
from lightmem_engine.types import Change, Scope, State

EXPIRED: Change = "expire"
ARCHIVED: Change = "archive"
_CURRENT = "e.state = 'active' AND e.version = (SELECT max(version) FROM entry l WHERE l.id = e.id)"
_DAY_MS = 86_400_000
_FRESH_DAYS = 90.0  # after which an entry's age counts half of what a new one's does
_ENOUGH_TERMS = 10  # more content does not make an entry more useful


def hide(
    connection: sqlite3.Connection, scope: Scope, run: str, now: datetime, *, expire_days: float, max_entries: int
) -> int:
    """Expire what is older than `expire_days`, then archive the least useful beyond `max_entries`; 0: no limit.
    Returns how many entries went out of sight."""
    if runs.state_of(connection, run) != "running":
        return 0
    sql = (
        "SELECT e.id, e.version, e.text, e.valid_from, (SELECT count(DISTINCT s.message) FROM entry_source s "
        "WHERE s.entry = e.id AND s.version = e.version) FROM entry e "
        f"WHERE e.tenant = ? AND e.user = ? AND {_CURRENT} ORDER BY e.valid_from, e.id"
    )
    present = connection.execute(sql, (scope.tenant, scope.user)).fetchall()
    hidden: list[tuple[str, int, Change, State, str]] = []
    if expire_days:
        oldest = to_ms(now) - round(expire_days * _DAY_MS)
        why = f"older than {expire_days:g} days"
        hidden += [(row[0], row[1], EXPIRED, "expired", why) for row in present if row[3] < oldest]
        present = [row for row in present if row[3] >= oldest]
    if max_entries and len(present) > max_entries:
        by_use = sorted(present, key=lambda row: usefulness(row[2], (to_ms(now) - row[3]) / _DAY_MS, row[4]))
        why = f"the least useful beyond {max_entries} entries"
        hidden += [(row[0], row[1], ARCHIVED, "archived", why) for row in by_use[: len(present) - max_entries]]
    for id, version, change, state, why in hidden:
        after = advance(connection, id, version, run, state, now, valid_to=now)
        runs.note_change(connection, run, scope, change, id, version, after, state, None, why)
    runs.count(connection, run, applied=len(hidden))
    record_changes(connection, scope, "entry", [id for id, *_ in hidden])
    return len(hidden)


def usefulness(text: str, age_days: float, num_messages: int) -> float:
    """How much an entry is worth keeping: the newer, the fuller and the more often said, the more."""
    fresh = math.exp2(-max(age_days, 0.0) / _FRESH_DAYS)
    fullness = min(len(set(search_terms(text))), _ENOUGH_TERMS) / _ENOUGH_TERMS
    return fresh + fullness + 0.5 * (num_messages - 1)


def overdue(connection: sqlite3.Connection, scope: Scope, now: datetime, keep: timedelta) -> list[str]:
    """Entries that forgetting hid longer ago than they are kept."""
    rows = connection.execute(
        "SELECT DISTINCT e.id FROM sleep_change c JOIN entry e ON e.id = c.entry AND e.version = c.after_version "
        "WHERE c.tenant = ? AND c.user = ? AND c.action IN ('expire', 'archive') AND e.recorded_at <= ? "
        "AND e.state IN ('expired', 'archived') AND e.version = (SELECT max(version) FROM entry l WHERE l.id = e.id)",
        (scope.tenant, scope.user, to_ms(now - keep)),
    )
    return [id for (id,) in rows.fetchall()]


def delete(connection: sqlite3.Connection, scope: Scope, ids: Sequence[str]) -> int:
    """Delete what is overdue, with its words; what is gone already is passed over. Returns how many there were."""
    number = 0
    for id in ids:
        sql = "SELECT 1 FROM entry WHERE id = ? AND tenant = ? AND user = ?"
        if connection.execute(sql, (id, scope.tenant, scope.user)).fetchone() is not None:
            delete_entry(connection, scope, id)
            number += 1
    return number
