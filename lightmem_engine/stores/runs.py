"""Runs of sleep: begun, counted, ended, shown, undone."""

from __future__ import annotations

import sqlite3
import uuid
from datetime import datetime
from typing import Any, Literal

from lightmem_engine.errors import Conflict, NotFound
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import from_ms, select_in, to_ms
from lightmem_engine.stores.supersede import withdraw_entries
from lightmem_engine.types import (
    RunReason,
    RunState,
    Scope,
    SleepBudget,
    SleepChange,
    SleepReport,
    SleepRun,
    State,
)

_COLUMNS = (
    "id, tenant, user, reason, mode, state, max_calls, max_tokens, max_seconds, started_ms, ended_ms, pairs, calls, "
    "prompt_tokens, completion_tokens, seconds, applied, rejected, stale, undecided, error"
)
_COUNTERS = frozenset(
    (
        *("pairs", "calls", "prompt_tokens", "completion_tokens", "seconds"),
        *("applied", "rejected", "stale", "undecided"),
    )
)


def begin(
    connection: sqlite3.Connection,
    tenant: str,
    user: str | None,
    reason: RunReason,
    mode: Literal["rules", "llm"],
    budget: SleepBudget,
    now: datetime,
) -> SleepRun:
    """A new run, in state `running`."""
    id = uuid.uuid4().hex
    connection.execute(
        "INSERT INTO sleep_run (id, tenant, user, reason, mode, state, max_calls, max_tokens, max_seconds, started_ms) "
        "VALUES (?, ?, ?, ?, ?, 'running', ?, ?, ?, ?)",
        (id, tenant, user, reason, mode, budget.max_calls, budget.max_tokens, budget.max_seconds, to_ms(now)),
    )
    return get(connection, tenant, id)


def get(connection: sqlite3.Connection, tenant: str, id: str) -> SleepRun:
    """A run of the tenant; `NotFound` if it has none of that id."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM sleep_run WHERE id = ? AND tenant = ?", (id, tenant)).fetchone()
    if row is None:
        raise NotFound(f"there is no sleep run {id!r}")
    return _run(row)


def listed(connection: sqlite3.Connection, tenant: str, user: str | None, limit: int) -> list[SleepRun]:
    """The newest runs of a user, or of a tenant, the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM sleep_run WHERE tenant = ? AND (? IS NULL OR user = ?) ORDER BY number DESC LIMIT ?",
        (tenant, user, user, limit),
    )
    return [_run(row) for row in rows]


def unfinished(connection: sqlite3.Connection) -> list[SleepRun]:
    """Runs that an earlier process did not end, the oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM sleep_run WHERE state = 'running' ORDER BY number")
    return [_run(row) for row in rows]


def state_of(connection: sqlite3.Connection, id: str) -> RunState | None:
    """A run's state; None once it is gone with its user."""
    row = connection.execute("SELECT state FROM sleep_run WHERE id = ?", (id,)).fetchone()
    return None if row is None else row[0]


def count(connection: sqlite3.Connection, id: str, **counters: float) -> None:
    """Add to a run's counters."""
    assert counters.keys() <= _COUNTERS
    sums = ", ".join(f"{name} = {name} + ?" for name in counters)
    connection.execute(f"UPDATE sleep_run SET {sums} WHERE id = ?", (*counters.values(), id))


def note_change(
    connection: sqlite3.Connection,
    run: str,
    scope: Scope,
    action: str,
    entry: str,
    before: int | None,
    after: int,
    state: State,
    other: str | None,
    reason: str,
) -> None:
    """A line of the run's diff."""
    connection.execute(
        "INSERT INTO sleep_change VALUES (?, "
        "1 + coalesce((SELECT max(number) FROM sleep_change WHERE run = ?), 0), ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (run, run, scope.tenant, scope.user, action, entry, before, after, state, other, reason),
    )


def end(connection: sqlite3.Connection, id: str, state: RunState, error: str | None, now: datetime) -> None:
    """A run is over."""
    connection.execute(
        "UPDATE sleep_run SET state = ?, error = ?, ended_ms = ? WHERE id = ? AND state = 'running'",
        (state, error, to_ms(now), id),
    )


def report(connection: sqlite3.Connection, tenant: str, id: str) -> SleepReport:
    """A run with what it changed, old and new texts beside each other; texts that were deleted since are None."""
    run = get(connection, tenant, id)
    rows = connection.execute(
        "SELECT c.number, c.user, c.action, c.entry, c.before_version, b.text, c.after_version, a.text, c.after_state, "
        "c.other, (SELECT o.text FROM entry o WHERE o.id = c.other ORDER BY o.version DESC LIMIT 1), c.reason "
        "FROM sleep_change c LEFT JOIN entry b ON b.id = c.entry AND b.version = c.before_version "
        "LEFT JOIN entry a ON a.id = c.entry AND a.version = c.after_version WHERE c.run = ? ORDER BY c.number",
        (id,),
    )
    return SleepReport(run, tuple(SleepChange(*row) for row in rows))


def roll_back(connection: sqlite3.Connection, tenant: str, id: str, now: datetime) -> SleepRun:
    """Undo a run: what is stored of the entries it touched reads as if it had never been.

    Raises `Conflict`, and does nothing, if the run is not over or if an entry it touched changed or was deleted since.
    What was erased with its user does not come back and is not in the way. Pairs stay decided: the next run does not
    do the same again.
    """
    run = get(connection, tenant, id)
    if run.state in ("running", "rolled_back"):
        raise Conflict(f"run {id} is {'still running' if run.state == 'running' else 'rolled back already'}")
    rows = connection.execute(
        "SELECT user, entry, before_version, after_version, after_state FROM sleep_change WHERE run = ? "
        "ORDER BY number DESC",
        (id,),
    ).fetchall()
    entries = {entry: user for user, entry, *_ in rows}
    _check_untouched(connection, id, rows)
    for _, entry, before, after, _ in rows:
        connection.execute("DELETE FROM entry WHERE id = ? AND version = ?", (entry, after))
        if before is not None:
            connection.execute(
                "UPDATE entry SET state = 'active', superseded_at = NULL WHERE id = ? AND version = ?", (entry, before)
            )
    connection.executemany("DELETE FROM sleep_seen WHERE entry = ?", [(entry,) for entry in entries])
    for user in dict.fromkeys(entries.values()):
        scope = Scope(user=user, tenant=tenant)
        own = [entry for entry, owner in entries.items() if owner == user]
        record_changes(connection, scope, "entry", own)
        # A branch may have withdrawn the messages of an entry while that was archived.
        sql = "SELECT DISTINCT message FROM entry_source WHERE entry IN ({in})"
        withdraw_entries(connection, scope, [seq for (seq,) in select_in(connection, sql, own)], now)
    connection.execute("UPDATE sleep_run SET state = 'rolled_back', ended_ms = ? WHERE id = ?", (to_ms(now), id))
    return get(connection, tenant, id)


def _check_untouched(connection: sqlite3.Connection, id: str, rows: list[Any]) -> None:
    """`Conflict` unless every entry stands as the run left it. rows: as in `roll_back`, the last change first."""
    last: dict[str, tuple[int, str]] = {}
    for _, entry, _, after, state in rows:
        last.setdefault(entry, (after, state))
    sql = (
        "SELECT id, version, state FROM entry e WHERE id IN ({in}) "
        "AND version = (SELECT max(version) FROM entry l WHERE l.id = e.id)"
    )
    present = {entry: (version, state) for entry, version, state in select_in(connection, sql, last)}
    touched = [entry for entry, left in last.items() if present.get(entry) != left]
    if touched:
        raise Conflict(f"run {id} cannot be rolled back: {len(touched)} of its entries changed since: {touched[0]}")


def _run(row: Any) -> SleepRun:
    id, tenant, user, reason, mode, state, calls, tokens, seconds, started_ms, ended_ms, *counters = row
    ended = None if ended_ms is None else from_ms(ended_ms)
    budget = SleepBudget(calls, tokens, seconds)
    return SleepRun(id, tenant, user, reason, mode, state, budget, from_ms(started_ms), ended, *counters)
