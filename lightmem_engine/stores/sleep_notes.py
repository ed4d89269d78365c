"""What sleep looks at: a user's active entries, which of them it has seen, and which pairs are decided."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from lightmem_engine.stores.edges import EDITED, said
from lightmem_engine.stores.rows import from_blob, from_ms
from lightmem_engine.types import Decision, Scope, SleepNote

_USER = "e.tenant = ? AND e.user = ?"
_PRESENT = (
    "e.state = 'active' AND e.valid_to IS NULL AND e.kind <> 'summary' "
    "AND e.version = (SELECT max(version) FROM entry l WHERE l.id = e.id)"
)


def load(connection: sqlite3.Connection, scope: Scope) -> list[SleepNote]:
    """The active entries, the earliest first: by event time, then by the place where they were said, then by id."""
    key = (scope.tenant, scope.user)
    messages: dict[str, set[int]] = {}
    sql = (
        "SELECT s.entry, s.message FROM entry e JOIN entry_source s ON s.entry = e.id AND s.version = e.version "
        f"WHERE {_USER} AND {_PRESENT}"
    )
    for id, message in connection.execute(sql, key):
        messages.setdefault(id, set()).add(message)
    sql = (
        "SELECT e.id, e.version, e.kind, e.text, e.speaker, e.role, e.valid_from, e.offset_s, v.blob, s.message, "
        f's.start, substr(m.content, s.start + 1, s."end" - s.start), {EDITED}, '
        "EXISTS (SELECT 1 FROM entry_link k WHERE k.entry = e.id AND k.kind = 'split') FROM entry e "
        "JOIN vector v ON v.entry = e.id AND v.version = e.version "
        "JOIN entry_source s ON s.entry = e.id AND s.version = 1 JOIN message m ON m.seq = s.message "
        f"WHERE {_USER} AND {_PRESENT} ORDER BY e.valid_from, s.message, s.start, e.id"
    )
    notes: dict[str, SleepNote] = {}
    for row in connection.execute(sql, key):
        id, version, kind, text, speaker, role, valid_from, offset_s, blob, message, start, words, edited, part = row
        if id in notes:
            continue
        own = said(speaker, text)
        notes[id] = SleepNote(
            id=id,
            version=version,
            kind=kind,
            text=text,
            words=words if kind == "turn" and not edited else own,
            speaker=speaker,
            role=role,
            event_time=from_ms(valid_from, offset_s),
            place=(message, start),
            messages=frozenset(messages[id]),
            is_part=bool(part),
            vector=from_blob(blob),
        )
    return list(notes.values())


def digest(*texts: str) -> bytes:
    """Of the texts that were looked at."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()


def seen(connection: sqlite3.Connection, scope: Scope) -> dict[str, bytes]:
    """Entries that a finished run has looked at, with the digest of the text they had."""
    sql = "SELECT entry, digest FROM sleep_seen WHERE tenant = ? AND user = ?"
    return dict(connection.execute(sql, (scope.tenant, scope.user)))


def mark_seen(connection: sqlite3.Connection, scope: Scope, notes: Iterable[SleepNote]) -> None:
    """These have been looked at, and nobody needs to look at what is not active. Entries deleted meanwhile leave
    nothing."""
    connection.executemany(
        "INSERT OR REPLACE INTO sleep_seen SELECT tenant, user, id, ? FROM entry "
        "WHERE id = ? AND version = 1 AND tenant = ? AND user = ?",
        [(digest(note.text), note.id, scope.tenant, scope.user) for note in notes],
    )
    connection.execute(
        "INSERT OR IGNORE INTO sleep_seen SELECT tenant, user, id, x'' FROM entry e WHERE tenant = ? AND user = ? "
        "AND version = 1 AND (SELECT state FROM entry l WHERE l.id = e.id ORDER BY version DESC LIMIT 1) <> 'active'",
        (scope.tenant, scope.user),
    )


def mark_summary_seen(connection: sqlite3.Connection, scope: Scope, id: str) -> None:
    """A summary is made by sleep, and nothing that sleep looks at."""
    connection.execute("INSERT INTO sleep_seen VALUES (?, ?, ?, x'')", (scope.tenant, scope.user, id))


def decided(connection: sqlite3.Connection, scope: Scope) -> dict[tuple[str, str], bytes]:
    """Pairs (target, source) that need no second look, with the digest of the two texts."""
    sql = "SELECT target, source, digest FROM sleep_pair WHERE tenant = ? AND user = ?"
    rows = connection.execute(sql, (scope.tenant, scope.user))
    return {(target, source): found for target, source, found in rows}


def mark_decided(
    connection: sqlite3.Connection, scope: Scope, run: str, decision: Decision, notes: Mapping[str, SleepNote]
) -> None:
    """Remember what was decided about a target and each of its sources."""
    target = notes[decision.target]
    for source in decision.sources:
        verdict = "rejected" if decision.rejected else decision.action
        chosen = verdict if decision.by in (None, source) else "ignore"
        connection.execute(
            "INSERT OR REPLACE INTO sleep_pair VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(scope.tenant, scope.user, target.id, source, digest(target.text, notes[source].text), run, chosen),
                decision.rejected or decision.reason,
            ),
        )


def num_unseen(connection: sqlite3.Connection, scope: Scope) -> int:
    """About how many entries came since the last run."""
    key = (scope.tenant, scope.user)
    sql = "SELECT count(*) FROM entry WHERE tenant = ? AND user = ? AND version = 1"
    (entries,) = connection.execute(sql, key).fetchone()
    (known,) = connection.execute("SELECT count(*) FROM sleep_seen WHERE tenant = ? AND user = ?", key).fetchone()
    return int(entries) - int(known)


def unseen_users(connection: sqlite3.Connection, tenant: str | None = None) -> list[Scope]:
    """Who has entries that no run has looked at, by name; of one tenant or of all."""
    rows: Sequence[tuple[str, str]] = connection.execute(
        "SELECT DISTINCT e.tenant, e.user FROM entry e LEFT JOIN sleep_seen s ON s.entry = e.id "
        "WHERE e.version = 1 AND s.entry IS NULL AND (? IS NULL OR e.tenant = ?) ORDER BY 1, 2",
        (tenant, tenant),
    ).fetchall()
    return [Scope(user=user, tenant=tenant) for tenant, user in rows]


def everybody(connection: sqlite3.Connection) -> list[Scope]:
    """Everybody of every tenant with entries, by name."""
    rows = connection.execute("SELECT DISTINCT tenant, user FROM entry ORDER BY 1, 2").fetchall()
    return [Scope(user=user, tenant=tenant) for tenant, user in rows]


def users(connection: sqlite3.Connection, tenant: str) -> list[Scope]:
    """Everybody of a tenant with entries, by name."""
    rows = connection.execute("SELECT DISTINCT user FROM entry WHERE tenant = ? ORDER BY 1", (tenant,)).fetchall()
    return [Scope(user=user, tenant=tenant) for (user,) in rows]
