"""`kv.db`: which chunks there are, who holds them, and which go first. No row, no hit.

Several processes may use one index. Every change is one short transaction; a chunk's bytes are charged before they are
written, so that what is used never exceeds what is allowed. It is a cache: losing its last commits in a power cut
leaves files without rows, which the next start removes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from lightmem_engine.kv.keys import Span

Reserved = Literal["reserved", "held", "busy", "full", "tenant_full"]
BLOCK_BYTES = 4096  # a file takes whole blocks of the disk
FRESH_SECONDS = 5.0  # what was just written is not evicted to make room for what comes behind it
VERSION = 2
_SETTINGS = ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON", "wal_autocheckpoint = 128")
_TABLES = """
CREATE TABLE chunk (
    key BLOB PRIMARY KEY, parent BLOB NOT NULL, fingerprint BLOB NOT NULL, tenant BLOB NOT NULL,
    num_tokens INTEGER NOT NULL, num_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL, digest BLOB,
    state TEXT NOT NULL CHECK (state IN ('writing', 'ready', 'dead')), writer TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL, hits INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL, score REAL NOT NULL, leased REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX chunk_by_parent ON chunk (parent, state);
CREATE INDEX chunk_by_tenant ON chunk (tenant);
CREATE INDEX chunk_by_score ON chunk (state, score);
CREATE TABLE manifest (id TEXT PRIMARY KEY, writer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE hold (manifest TEXT NOT NULL, key BLOB NOT NULL, PRIMARY KEY (manifest, key)) WITHOUT ROWID;
CREATE INDEX hold_by_key ON hold (key);
CREATE TABLE clock (value REAL NOT NULL);
INSERT INTO clock VALUES (0);
"""


class Row(NamedTuple):
    """A chunk that is ready to be read."""

    key: bytes
    num_tokens: int
    num_bytes: int
    digest: bytes
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Caps:
    """Bytes on disk at most, of all and of one tenant."""

    total: int
    tenant: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """total: bytes on disk.   tenant_share: of them, for one tenant.   min_free: bytes that stay free on the volume."""

    total: int
    tenant_share: float = 1.0
    min_free: int = 0

    @property
    def caps(self) -> Caps:
        """In bytes."""
        return Caps(self.total, int(self.total * self.tenant_share))


class Index:
    """Thread-safe. Methods raise `sqlite3.Error`; whoever calls makes a miss of it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            path.chmod(0o600)
            for pragma in (*_SETTINGS,):
                self._db.execute(f"PRAGMA {pragma}")
            with self.transaction():
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, VERSION):
                    raise sqlite3.DatabaseError(f"kv.db has schema {version}")
                if version == 0:
                    for statement in _TABLES.strip().split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
            if self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("kv.db is damaged")
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def reserve(
        self,
        span: Span,
        fingerprint: bytes,
        tenant: bytes,
        manifest: str,
        num_bytes: int,
        cost: float,
        caps: Caps,
        writer: str,
        now: float,
    ) -> Reserved:
        """Charge a chunk before it is written, or hold the one that is there. cost: seconds to compute it again."""
        disk_bytes = -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
        with self.transaction() as db:
            state = db.execute("SELECT state FROM chunk WHERE key = ?", (span.key,)).fetchone()
            if state is not None:
                if state[0] != "ready":
                    return "busy"
                self._hold(manifest, span.key, writer)
                db.execute("UPDATE chunk SET leased = max(leased, ?) WHERE key = ?", (now + FRESH_SECONDS, span.key))
                return "held"
            if self.used() + disk_bytes > caps.total:
                return "full"
            if self.used(tenant) + disk_bytes > caps.tenant:
                return "tenant_full"
            score = self._clock() + cost / max(1, num_bytes)
            db.execute(
                "INSERT INTO chunk (key, parent, fingerprint, tenant, num_tokens, num_bytes, disk_bytes, state, writer,"
                " created, used, cost, score, leased) VALUES (?, ?, ?, ?, ?, ?, ?, 'writing', ?, ?, ?, ?, ?, ?)",
                (
                    *(span.key, span.parent, fingerprint, tenant, len(span.tokens), num_bytes, disk_bytes),
                    *(writer, now, now, cost, score, now + FRESH_SECONDS),
                ),
            )
            self._hold(manifest, span.key, writer)
            return "reserved"

    def finish(self, key: bytes, digest: bytes) -> bool:
        """A chunk is in place. False if nobody wants it any more: then its file is to go, see `dead`."""
        with self.transaction() as db:
            held = db.execute("SELECT 1 FROM hold WHERE key = ? LIMIT 1", (key,)).fetchone()
            db.execute(
                "UPDATE chunk SET state = ?, digest = ? WHERE key = ?", ("ready" if held else "dead", digest, key)
            )
            return held is not None

    def abandon(self, keys: Iterable[bytes]) -> None:
        """Forget chunks, and that anybody held them."""
        with self.transaction() as db:
            for key in keys:
                db.execute("DELETE FROM chunk WHERE key = ?", (key,))
                db.execute("DELETE FROM hold WHERE key = ?", (key,))

    def ready(self, key: bytes) -> tuple[Row, set[str]] | None:
        """A chunk that may be read, and the manifests that hold it."""
        with self._lock:
            row = self._db.execute(
                "SELECT key, num_tokens, num_bytes, digest, fingerprint FROM chunk WHERE key = ? AND state = 'ready'",
                (key,),
            ).fetchone()
            if row is None:
                return None
            held = self._db.execute("SELECT manifest FROM hold WHERE key = ?", (key,))
            return Row(*row), {manifest for (manifest,) in held}

    def lengths(self, parent: bytes) -> list[int]:
        """Of how many tokens there are chunks behind another, the longest first."""
        sql = "SELECT DISTINCT num_tokens FROM chunk WHERE parent = ? AND state = 'ready' ORDER BY num_tokens DESC"
        with self._lock:
            return [length for (length,) in self._db.execute(sql, (parent,))]

    def children(self, parent: bytes, limit: int) -> list[bytes]:
        """Chunks behind another, those used last first."""
        sql = "SELECT key FROM chunk WHERE parent = ? AND state = 'ready' ORDER BY used DESC LIMIT ?"
        with self._lock:
            return [key for (key,) in self._db.execute(sql, (parent, limit))]

    def touch(self, keys: Sequence[bytes], now: float, leased: float) -> None:
        """Chunks are about to be read: they stay until `leased`, and are worth more from now on."""
        with self.transaction() as db:
            clock = self._clock()
            db.executemany(
                "UPDATE chunk SET used = ?, hits = hits + 1, leased = max(leased, ?), "
                "score = ? + (hits + 2) * cost / max(1, num_bytes) WHERE key = ?",
                [(now, leased, clock, key) for key in keys],
            )

    def release(self, manifests: Iterable[str]) -> None:
        """These manifests hold nothing any more; what nobody holds is dead."""
        with self.transaction() as db:
            for manifest in manifests:
                db.execute(
                    "UPDATE chunk SET state = 'dead' WHERE state = 'ready' AND key IN "
                    "(SELECT key FROM hold WHERE manifest = ?) AND NOT EXISTS "
                    "(SELECT 1 FROM hold h WHERE h.key = chunk.key AND h.manifest <> ?)",
                    (manifest, manifest),
                )
                db.execute("DELETE FROM hold WHERE manifest = ?", (manifest,))
                db.execute("DELETE FROM manifest WHERE id = ?", (manifest,))

    def condemn(self, num_bytes: int, tenant: bytes | None, now: float) -> list[bytes]:
        """Choose at least `num_bytes` of chunks to go, and declare them dead; fewer if there are no more.

        What is cheapest to compute again per byte and hit goes first; no chunk before those behind it, and none that
        is being read.
        """
        freed, chosen = 0, []
        whose = "" if tenant is None else "AND tenant = :tenant"
        sql = (
            f"SELECT key, disk_bytes, score FROM chunk c WHERE state = 'ready' AND leased < :now {whose} AND NOT EXISTS"
            " (SELECT 1 FROM chunk b WHERE b.parent = c.key AND b.state <> 'dead') ORDER BY score LIMIT 1"
        )
        with self.transaction() as db:
            while freed < num_bytes:
                leaf = db.execute(sql, {"now": now, "tenant": tenant}).fetchone()
                if leaf is None:
                    break
                key, size, score = leaf
                db.execute("UPDATE chunk SET state = 'dead' WHERE key = ?", (key,))
                db.execute("DELETE FROM hold WHERE key = ?", (key,))
                db.execute("UPDATE clock SET value = max(value, ?)", (score,))
                chosen.append(key)
                freed += size
        return chosen

    def cheapest(self, limit: int) -> list[bytes]:
        """Chunks that are worth least, as far as one can tell without writing."""
        sql = "SELECT key FROM chunk WHERE state = 'ready' ORDER BY score LIMIT ?"
        with self._lock:
            return [key for (key,) in self._db.execute(sql, (limit,))]

    def dead(self) -> list[bytes]:
        """Chunks whose files are to go."""
        with self._lock:
            return [key for (key,) in self._db.execute("SELECT key FROM chunk WHERE state = 'dead'")]

    def used(self, tenant: bytes | None = None) -> int:
        """Bytes on disk, charged ones included."""
        sql = "SELECT coalesce(sum(disk_bytes), 0) FROM chunk WHERE ?1 IS NULL OR tenant = ?1"
        with self._lock:
            return int(self._db.execute(sql, (tenant,)).fetchone()[0])

    def held_by(self, manifests: Iterable[str]) -> set[str]:
        """Those of these manifests that hold something."""
        with self._lock:
            sql = "SELECT 1 FROM hold WHERE manifest = ? LIMIT 1"
            return {one for one in manifests if self._db.execute(sql, (one,)).fetchone()}

    def kept_by(self) -> dict[str, str]:
        """Who has begun to keep something under each manifest that has not been released."""
        with self._lock:
            return dict(self._db.execute("SELECT id, writer FROM manifest"))

    def writing(self) -> set[str]:
        """Writers of chunks that are not in place yet."""
        with self._lock:
            return {id for (id,) in self._db.execute("SELECT DISTINCT writer FROM chunk WHERE state = 'writing'")}

    def all(self) -> list[tuple[bytes, str, str, int]]:
        """(key, state, writer, file size) of every row."""
        with self._lock:
            return self._db.execute("SELECT key, state, writer, num_bytes FROM chunk").fetchall()

    def counts(self, now: float = 0.0) -> dict[str, int]:
        """Chunks by state, the tokens of those that are ready, and how many of them are not evicted as of `now`."""
        with self._lock:
            found = dict(self._db.execute("SELECT state, count(*) FROM chunk GROUP BY state").fetchall())
            tokens = self._db.execute("SELECT coalesce(sum(num_tokens), 0) FROM chunk WHERE state = 'ready'").fetchone()
            leased = self._db.execute("SELECT count(*) FROM chunk WHERE state = 'ready' AND leased >= ?", (now,))
            return {**found, "tokens": tokens[0], "leased": leased.fetchone()[0]}

    def strangers(self, fingerprint: bytes) -> int:
        """Chunks of other models than this."""
        with self._lock:
            found = self._db.execute("SELECT count(*) FROM chunk WHERE fingerprint <> ?", (fingerprint,))
            return int(found.fetchone()[0])

    def _hold(self, manifest: str, key: bytes, writer: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO manifest VALUES (?, ?)", (manifest, writer))
        self._db.execute("INSERT OR IGNORE INTO hold VALUES (?, ?)", (manifest, key))

    def _clock(self) -> float:
        return float(self._db.execute("SELECT value FROM clock").fetchone()[0])
