"""The tables of `memory.db`, and how an older file becomes a newer one.

Times are milliseconds since 1970 in UTC (`*_ms`); `offset_s` is the speaker's UTC offset in seconds. A migration is a
script from one version to the next; a file from a newer engine is refused.
"""

from __future__ import annotations

import sqlite3

from lightmem_engine.errors import CorruptStore, StoreError
from lightmem_engine.stores.schema_kv import KV_MANIFESTS

SCHEMA_VERSION = 5

_V1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, user TEXT NOT NULL, id TEXT NOT NULL,
    session TEXT NOT NULL, role TEXT NOT NULL, speaker TEXT NOT NULL, content TEXT NOT NULL,
    event_ms INTEGER NOT NULL, offset_s INTEGER NOT NULL, recorded_ms INTEGER NOT NULL,
    metadata TEXT NOT NULL, digest BLOB NOT NULL,
    UNIQUE (tenant, user, id)
);
CREATE INDEX message_by_user ON message (tenant, user, seq);
CREATE INDEX message_by_session ON message (tenant, user, session, seq);

CREATE TABLE session (
    tenant TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
    last_seq INTEGER NOT NULL, last_event_ms INTEGER NOT NULL, last_recorded_ms INTEGER NOT NULL,
    decided_seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, user, session)
) WITHOUT ROWID;

CREATE TABLE stage_cursor (
    stage TEXT NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (stage, tenant, user)
) WITHOUT ROWID;

CREATE TABLE parked (
    stage TEXT NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, item INTEGER NOT NULL,
    error TEXT NOT NULL, attempts INTEGER NOT NULL, parked_ms INTEGER NOT NULL,
    PRIMARY KEY (stage, tenant, user, item)
) WITHOUT ROWID;

CREATE TABLE segment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
    num_tokens INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('closed', 'extracted', 'parked')),
    closed_ms INTEGER NOT NULL
);
CREATE INDEX segment_by_user ON segment (tenant, user, state, id);

CREATE TABLE sensed (
    message INTEGER PRIMARY KEY REFERENCES message (seq) ON DELETE CASCADE,
    tenant TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
    segment INTEGER REFERENCES segment (id),
    vector BLOB NOT NULL, attention REAL, mass REAL, num_tokens INTEGER NOT NULL
);
CREATE INDEX sensed_by_session ON sensed (tenant, user, session, message);
CREATE INDEX sensed_by_segment ON sensed (segment);

CREATE TABLE piece (
    message INTEGER NOT NULL REFERENCES message (seq) ON DELETE CASCADE,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, compressed TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (message, start)
) WITHOUT ROWID;

CREATE TABLE entry (
    id TEXT NOT NULL, version INTEGER NOT NULL,
    tenant TEXT NOT NULL, user TEXT NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL,
    valid_from INTEGER NOT NULL, offset_s INTEGER NOT NULL, valid_to INTEGER,
    recorded_at INTEGER NOT NULL, superseded_at INTEGER, run_id TEXT,
    state TEXT NOT NULL CHECK (state IN ('active', 'superseded', 'archived', 'expired')),
    segment INTEGER, session TEXT NOT NULL, speaker TEXT NOT NULL, role TEXT NOT NULL,
    tags TEXT NOT NULL, metadata TEXT NOT NULL,
    PRIMARY KEY (id, version)
) WITHOUT ROWID;
CREATE INDEX entry_by_user ON entry (tenant, user, id);

CREATE TABLE entry_source (
    entry TEXT NOT NULL, version INTEGER NOT NULL, message INTEGER NOT NULL REFERENCES message (seq),
    start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    PRIMARY KEY (entry, version, message, start),
    FOREIGN KEY (entry, version) REFERENCES entry (id, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX entry_source_by_message ON entry_source (message);

CREATE TABLE vector (
    entry TEXT NOT NULL, version INTEGER NOT NULL, embed_model TEXT NOT NULL, blob BLOB NOT NULL,
    PRIMARY KEY (entry, version),
    FOREIGN KEY (entry, version) REFERENCES entry (id, version) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE TABLE change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, user TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what IN ('message', 'entry')), ref NOT NULL
);
CREATE INDEX change_by_user ON change (tenant, user, seq);

CREATE TABLE usage (
    tenant TEXT NOT NULL, user TEXT NOT NULL, stage TEXT NOT NULL,
    calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (tenant, user, stage)
) WITHOUT ROWID;
"""

# Conversations. A thread is one root of a session; its links not superseded are the present branch, in order of depth.
# `root`, `tip` and `before` are the chain digests of the first and last link of that branch and of the last but one.
_V2 = """
ALTER TABLE message ADD COLUMN superseded_ms INTEGER;
CREATE INDEX entry_by_time ON entry (tenant, user, recorded_at);
CREATE INDEX fact_by_time ON entry (tenant, user, recorded_at) WHERE kind <> 'turn';

CREATE TABLE chat_user (
    tenant TEXT NOT NULL, user TEXT NOT NULL, salt BLOB NOT NULL, block TEXT,
    PRIMARY KEY (tenant, user)
) WITHOUT ROWID;

CREATE TABLE chat_session (
    tenant TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
    is_named INTEGER NOT NULL, block TEXT,
    PRIMARY KEY (tenant, user, session)
) WITHOUT ROWID;

CREATE TABLE chat_thread (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
    root BLOB, tip BLOB, before BLOB, num_turns INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX chat_thread_by_session ON chat_thread (tenant, user, session, id);
CREATE INDEX chat_thread_by_root ON chat_thread (tenant, user, session, root);
CREATE INDEX chat_thread_by_tip ON chat_thread (tenant, user, tip);
CREATE INDEX chat_thread_by_before ON chat_thread (tenant, user, before);

CREATE TABLE chat_link (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    thread INTEGER NOT NULL REFERENCES chat_thread (id) ON DELETE CASCADE,
    depth INTEGER NOT NULL, digest BLOB NOT NULL, parent BLOB NOT NULL, item BLOB NOT NULL, role TEXT NOT NULL,
    message INTEGER REFERENCES message (seq) ON DELETE SET NULL,
    injection TEXT, turn INTEGER NOT NULL, is_partial INTEGER NOT NULL, superseded_ms INTEGER
);
CREATE INDEX chat_link_by_thread ON chat_link (thread, superseded_ms, depth);
CREATE INDEX chat_link_by_message ON chat_link (message);

CREATE TABLE chat_key (
    tenant TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL,
    request BLOB NOT NULL, thread INTEGER NOT NULL, link INTEGER NOT NULL, used_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, user, key)
) WITHOUT ROWID;
CREATE INDEX chat_key_by_time ON chat_key (used_ms);
"""

# Sleep. A run of user NULL is one over all users of its tenant. Changes name entries and hold none of their words, so
# that an erasure has nothing to look for in them. `digest` is of the two texts that were compared, or of the one that
# was looked at: a text that changes is looked at again.
_V3 = """
CREATE TABLE entry_link (
    entry TEXT NOT NULL, version INTEGER NOT NULL, other TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('duplicate', 'merged', 'split')),
    PRIMARY KEY (entry, version, other),
    FOREIGN KEY (entry, version) REFERENCES entry (id, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX entry_link_by_other ON entry_link (other);

CREATE TABLE sleep_run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, user TEXT,
    reason TEXT NOT NULL, mode TEXT NOT NULL CHECK (mode IN ('rules', 'llm')),
    state TEXT NOT NULL CHECK (state IN ('running', 'done', 'stopped', 'failed', 'rolled_back')),
    max_calls INTEGER NOT NULL, max_tokens INTEGER NOT NULL, max_seconds REAL NOT NULL,
    started_ms INTEGER NOT NULL, ended_ms INTEGER,
    pairs INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0, applied INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0,
    stale INTEGER NOT NULL DEFAULT 0, undecided INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE INDEX sleep_run_by_user ON sleep_run (tenant, user, number);
CREATE INDEX sleep_run_by_state ON sleep_run (state);

CREATE TABLE sleep_change (
    run TEXT NOT NULL REFERENCES sleep_run (id) ON DELETE CASCADE, number INTEGER NOT NULL,
    tenant TEXT NOT NULL, user TEXT NOT NULL, action TEXT NOT NULL,
    entry TEXT NOT NULL, before_version INTEGER, after_version INTEGER NOT NULL, after_state TEXT NOT NULL,
    other TEXT, reason TEXT NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX sleep_change_by_user ON sleep_change (tenant, user, run);

CREATE TABLE sleep_pair (
    tenant TEXT NOT NULL, user TEXT NOT NULL, target TEXT NOT NULL, source TEXT NOT NULL, digest BLOB NOT NULL,
    run TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (target, source)
) WITHOUT ROWID;
CREATE INDEX sleep_pair_by_source ON sleep_pair (source);
CREATE INDEX sleep_pair_by_user ON sleep_pair (tenant, user);

CREATE TABLE sleep_seen (
    tenant TEXT NOT NULL, user TEXT NOT NULL, entry TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (entry)
) WITHOUT ROWID;
CREATE INDEX sleep_seen_by_user ON sleep_seen (tenant, user);
"""

# The memory graph, and summaries. An edge holds as long as the version of the entry that says so: `edge` reads times
# and state there, so that neither sleep, nor a rollback, nor a deletion can leave the two in disagreement.
_GRAPH = """
CREATE TABLE entry_edge (
    entry TEXT NOT NULL, version INTEGER NOT NULL, number INTEGER NOT NULL,
    tenant TEXT NOT NULL, user TEXT NOT NULL, subject TEXT NOT NULL, relation TEXT NOT NULL, object TEXT NOT NULL,
    PRIMARY KEY (entry, version, number),
    FOREIGN KEY (entry, version) REFERENCES entry (id, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX entry_edge_by_subject ON entry_edge (tenant, user, subject);
CREATE INDEX entry_edge_by_object ON entry_edge (tenant, user, object);

-- What a summary tells of: the entries of its window (`is_own`) and those it recalls and cites, as they were then.
CREATE TABLE summary_of (
    entry TEXT NOT NULL, version INTEGER NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL,
    member TEXT NOT NULL, member_version INTEGER NOT NULL, is_own INTEGER NOT NULL,
    PRIMARY KEY (entry, version, member),
    FOREIGN KEY (entry, version) REFERENCES entry (id, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX summary_of_by_member ON summary_of (member);
CREATE INDEX summary_of_by_user ON summary_of (tenant, user);

CREATE VIEW edge AS SELECT k.tenant, k.user, k.subject, k.relation, k.object, e.valid_from, e.valid_to, e.recorded_at,
    e.superseded_at, e.run_id, e.state, k.entry AS source, k.version, k.number
    FROM entry_edge k JOIN entry e ON e.id = k.entry AND e.version = k.version;
"""

# MIGRATIONS[n] leads from version n to n + 1.
MIGRATIONS: dict[int, str] = {0: _V1, 1: _V2, 2: _V3, 3: KV_MANIFESTS, 4: _GRAPH}


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to `SCHEMA_VERSION`, one transaction per step. Raises `StoreError` for a newer file."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StoreError(f"memory.db has schema {version}; this engine knows up to {SCHEMA_VERSION}: upgrade it")
    while version < SCHEMA_VERSION:
        script = MIGRATIONS[version]
        version += 1
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise CorruptStore(f"memory.db is damaged: {damage}")
