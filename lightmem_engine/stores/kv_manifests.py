"""Rows of `kv_manifest`: added here, ended by the triggers of `schema_kv` and by age."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from lightmem_engine.stores.rows import to_ms
from lightmem_engine.types import CacheOwner, Scope

KEPT_PER_THREAD = 2  # a regenerated reply finds the turn before it


@dataclass(frozen=True, slots=True)
class Manifest:
    """A KV cache of the first tokens of a prompt. tokens: their ids, where they are what is kept (mode warm)."""

    id: str
    owner: CacheOwner
    fingerprint: bytes
    num_tokens: int
    num_bytes: int = 0
    tokens: bytes | None = None


def add(connection: sqlite3.Connection, manifest: Manifest, now: datetime) -> bool:
    """Let a manifest stand, if what it belongs to still does; an older one of the same place ends."""
    owner = manifest.owner
    key = (owner.scope.tenant, owner.scope.user)
    if not is_standing(connection, owner):
        return False
    place = (owner.thread or None, owner.link or None, owner.segment or None)
    connection.execute("DELETE FROM kv_manifest WHERE thread IS ? AND link IS ? AND segment IS ?", place)
    connection.execute(
        "INSERT INTO kv_manifest VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(manifest.id, *key, *place, manifest.fingerprint, manifest.num_tokens, manifest.num_bytes),
            *(manifest.tokens, to_ms(now), to_ms(now)),
        ),
    )
    connection.execute(
        "DELETE FROM kv_manifest WHERE thread = ? AND id NOT IN "
        "(SELECT id FROM kv_manifest WHERE thread = ? ORDER BY link DESC LIMIT ?)",
        (owner.thread, owner.thread, KEPT_PER_THREAD),
    )
    return True


def is_standing(connection: sqlite3.Connection, owner: CacheOwner) -> bool:
    """Whether there still is what a cache belongs to."""
    key = (owner.scope.tenant, owner.scope.user)
    if owner.segment:
        sql = "SELECT 1 FROM segment WHERE id = ? AND tenant = ? AND user = ? AND state = 'closed'"
        return connection.execute(sql, (owner.segment, *key)).fetchone() is not None
    sql = (
        "SELECT 1 FROM chat_link l JOIN chat_thread t ON t.id = l.thread WHERE l.id = ? AND t.id = ? "
        "AND l.superseded_ms IS NULL AND t.tenant = ? AND t.user = ?"
    )
    return connection.execute(sql, (owner.link, owner.thread, *key)).fetchone() is not None


def warm(connection: sqlite3.Connection, limit: int) -> list[tuple[Manifest, list[int], str]]:
    """Manifests that are token ids alone, with these and their user's salt, those used last first."""
    salts = {(t, u): salt for t, u, salt in connection.execute("SELECT tenant, user, salt FROM chat_user")}
    found = []
    for manifest in [one for one in standing(connection) if one.tokens is not None][:limit]:
        salt = salts.get((manifest.owner.scope.tenant, manifest.owner.scope.user))
        if salt is not None and manifest.tokens is not None:
            found.append((manifest, np.frombuffer(manifest.tokens, "<u4").tolist(), salt.hex()))
    return found


def standing(connection: sqlite3.Connection) -> list[Manifest]:
    """All manifests, those used last first."""
    rows = connection.execute(
        "SELECT id, tenant, user, thread, link, segment, fingerprint, num_tokens, num_bytes, tokens FROM kv_manifest "
        "ORDER BY used_ms DESC"
    )
    return [
        Manifest(id, CacheOwner(Scope(user, tenant), thread or 0, link or 0, segment or 0), *rest)
        for id, tenant, user, thread, link, segment, *rest in rows
    ]


def is_overdue(connection: sqlite3.Connection, before: datetime) -> bool:
    """Whether there is anything that nobody has used since."""
    sql = "SELECT 1 FROM kv_manifest WHERE used_ms < ? LIMIT 1"
    return connection.execute(sql, (to_ms(before),)).fetchone() is not None


def expire(connection: sqlite3.Connection, before: datetime) -> None:
    """End what nobody has used since."""
    connection.execute("DELETE FROM kv_manifest WHERE used_ms < ?", (to_ms(before),))


def end(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """End manifests by number."""
    connection.executemany("DELETE FROM kv_manifest WHERE id = ?", [(id,) for id in ids])


def end_of(connection: sqlite3.Connection, tenant: str, user: str | None) -> int:
    """End all of a user, or of a tenant; how many there were."""
    sql = "DELETE FROM kv_manifest WHERE tenant = ?1 AND (?2 IS NULL OR user = ?2)"
    return connection.execute(sql, (tenant, user)).rowcount


def end_all(connection: sqlite3.Connection) -> None:
    """End every one there is."""
    connection.execute("DELETE FROM kv_manifest")


def gone(connection: sqlite3.Connection) -> list[str]:
    """Manifests that have ended and whose files may still be there."""
    return [id for (id,) in connection.execute("SELECT id FROM kv_gone")]


def forget_gone(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Their files are gone."""
    connection.executemany("DELETE FROM kv_gone WHERE id = ?", [(id,) for id in ids])


def forget_all_gone(connection: sqlite3.Connection) -> None:
    """No file of any manifest is left."""
    connection.execute("DELETE FROM kv_gone")
