"""One user's exported rows into the database, in one transaction.

What is there already with the same content stays as it is; with other content it is a `Conflict`, and nothing of this
user's import is stored. Messages that were not through when they were exported wait here for the same stages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lightmem_engine.errors import Conflict
from lightmem_engine.stores import edges, linked, work
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.records import Row, UserRecords, moment
from lightmem_engine.stores.reembed import Spoken, embedded_text, turn_vector
from lightmem_engine.stores.rows import offset_of, select_in, to_blob, to_json, to_ms
from lightmem_engine.types import Scope, Vector


class Restored(NamedTuple):
    """What was new: messages, entries, and the sessions the stages must look at."""

    messages: int
    entries: int
    sessions: tuple[str, ...]


def texts_of(records: UserRecords, spoken: Spoken) -> list[str]:
    """Every text whose vector `restore` needs, each once."""
    texts = dict.fromkeys(text for row in records.sensed for text in _piece_texts(records, row, spoken))
    texts |= dict.fromkeys(_entry_text(records, row, spoken) for row in records.entries)
    return list(texts)


def restore(
    connection: sqlite3.Connection,
    scope: Scope,
    records: UserRecords,
    vectors: Mapping[str, Vector],
    spoken: Spoken,
    embed_model: str,
) -> Restored:
    """Store what is not there yet. `vectors`: one for each of `texts_of`."""
    return _Restorer(connection, scope, records, vectors, spoken, embed_model).run()


class _Restorer:
    """The state of one call of `restore`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        scope: Scope,
        records: UserRecords,
        vectors: Mapping[str, Vector],
        spoken: Spoken,
        embed_model: str,
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._key = (scope.tenant, scope.user)
        self._records = records
        self._vectors = vectors
        self._spoken = spoken
        self._embed_model = embed_model
        self._seqs: dict[str, int] = {}
        self._new: dict[str, int] = {}
        self._segments: dict[int, int] = {}

    def run(self) -> Restored:
        is_empty = self._one("SELECT 1 FROM message WHERE tenant = ? AND user = ? LIMIT 1", *self._key) is None
        self._messages()
        self._sessions()
        self._sensed()
        entries = self._entries()
        self._parked()
        if is_empty:
            for row in self._records.cursors:
                work.advance(self._connection, work.SENSE, self._scope, self._seqs[row["message"]])
        record_changes(self._connection, self._scope, "message", self._new.values())
        sessions = dict.fromkeys(row["session"] for row in self._records.messages if row["id"] in self._new)
        return Restored(len(self._new), entries, tuple(sessions))

    def _messages(self) -> None:
        sql = "SELECT id, seq, content, digest FROM message WHERE tenant = ? AND user = ? AND id IN ({in})"
        ids = [row["id"] for row in self._records.messages]
        known = {row[0]: row[1:] for row in select_in(self._connection, sql, ids, *self._key)}
        for row in self._records.messages:
            found = known.get(row["id"])
            if found is not None:
                if found[1:] != (row["content"], bytes.fromhex(row["digest"])):
                    raise Conflict(f"message {row['id']!r} of user {self._scope.user!r} is stored with other content")
                self._seqs[row["id"]] = found[0]
                continue
            said, recorded = moment(row["event_time"]), moment(row["recorded_at"])
            cursor = self._connection.execute(
                "INSERT INTO message (tenant, user, id, session, role, speaker, content, event_ms, offset_s, "
                "recorded_ms, metadata, digest, superseded_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *self._key,
                    *(row[name] for name in ("id", "session", "role", "speaker", "content")),
                    to_ms(said),
                    offset_of(said),
                    to_ms(recorded),
                    to_json(row["metadata"]),
                    bytes.fromhex(row["digest"]),
                    _ms(row["superseded_at"]),
                ),
            )
            assert cursor.lastrowid is not None
            self._seqs[row["id"]] = self._new[row["id"]] = cursor.lastrowid

    def _sessions(self) -> None:
        """A row for each session that has messages; which gaps are settled is taken over for new ones only."""
        decided = {row["session"]: row["decided"] for row in self._records.sessions}
        by_session: dict[str, list[Row]] = {}
        for row in self._records.messages:
            by_session.setdefault(row["session"], []).append(row)
        for session, rows in by_session.items():
            seqs = [self._seqs[row["id"]] for row in rows]
            settled = min(decided.get(session, 0), len(seqs))
            self._connection.execute(
                "INSERT INTO session (tenant, user, session, last_seq, last_event_ms, last_recorded_ms, decided_seq) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last_seq = max(last_seq, excluded.last_seq), "
                "last_event_ms = max(last_event_ms, excluded.last_event_ms), "
                "last_recorded_ms = max(last_recorded_ms, excluded.last_recorded_ms)",
                (
                    *self._key,
                    session,
                    max(seqs),
                    max(to_ms(moment(row["event_time"])) for row in rows),
                    max(to_ms(moment(row["recorded_at"])) for row in rows),
                    seqs[settled] if settled < len(seqs) else max(seqs) + 1,
                ),
            )

    def _sensed(self) -> None:
        self._make_segments()
        for row in self._records.sensed:
            seq = self._new.get(row["message"])
            if seq is None:
                continue  # it has been through the stages here, or will be
            texts = _piece_texts(self._records, row, self._spoken)
            vectors = [self._vectors[text] for text in texts]
            segment = None if row["segment"] is None else self._segments[row["segment"]]
            session = self._records.by_id[row["message"]]["session"]
            self._connection.execute(
                "INSERT INTO sensed (message, tenant, user, session, segment, vector, attention, mass, num_tokens) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    seq,
                    *self._key,
                    session,
                    segment,
                    to_blob(turn_vector(vectors)),
                    row["attention"],
                    row["mass"],
                    row["num_tokens"],
                ),
            )
            self._connection.executemany(
                'INSERT INTO piece (message, start, "end", compressed, vector) VALUES (?, ?, ?, ?, ?)',
                [
                    (seq, piece["start"], piece["end"], piece["text"], to_blob(vector))
                    for piece, vector in zip(row["pieces"], vectors, strict=True)
                ],
            )

    def _make_segments(self) -> None:
        """The segments that new messages belong to, in the order of the file."""
        needed = {row["segment"] for row in self._records.sensed if row["message"] in self._new}
        for row in self._records.segments:
            if row["segment"] in needed:
                cursor = self._connection.execute(
                    "INSERT INTO segment (tenant, user, session, num_tokens, state, closed_ms) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (*self._key, row["session"], row["num_tokens"], row["state"], to_ms(moment(row["closed_at"]))),
                )
                assert cursor.lastrowid is not None
                self._segments[row["segment"]] = cursor.lastrowid

    def _entries(self) -> int:
        """Returns how many entries are new."""
        known = self._known_entries()
        new = set()
        for row in self._records.entries:
            wanted = self._entry_row(row)
            found = known.get(row["id"], {}).get(row["version"])
            if found is not None or row["id"] in known:
                if found != (*wanted, self._key, _sources(row)):
                    raise Conflict(f"entry {row['id']!r} is stored with other content")
                continue
            new.add(row["id"])
            segment = None if row["segment"] is None else self._segments.get(row["segment"])
            self._connection.execute(
                f"INSERT INTO entry ({_COLUMNS}, segment, tenant, user) VALUES ({', '.join('?' * 19)})",
                (*wanted, segment, *self._key),
            )
            self._connection.executemany(
                'INSERT INTO entry_source (entry, version, message, start, "end") VALUES (?, ?, ?, ?, ?)',
                [
                    (row["id"], row["version"], self._seqs[source["message"]], source["start"], source["end"])
                    for source in row["sources"]
                ],
            )
            vector = self._vectors[_entry_text(self._records, row, self._spoken)]
            self._connection.execute(
                "INSERT INTO vector (entry, version, embed_model, blob) VALUES (?, ?, ?, ?)",
                (row["id"], row["version"], self._embed_model, to_blob(vector)),
            )
        linked.restore(self._connection, self._scope, self._records)
        edges.write(self._connection, new)
        record_changes(self._connection, self._scope, "entry", sorted(new))
        return len(new)

    def _known_entries(self) -> dict[str, dict[int, tuple[Any, ...]]]:
        """Stored versions of the file's entries, whosever they are."""
        ids = list(self._records.versions)
        sources: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
        sql = (
            'SELECT s.entry, s.version, m.id, s.start, s."end" FROM entry_source s JOIN message m ON m.seq = s.message '
            "WHERE s.entry IN ({in})"
        )
        for id, version, *source in select_in(self._connection, sql, ids):
            sources.setdefault((id, version), []).append((source[0], source[1], source[2]))
        known: dict[str, dict[int, tuple[Any, ...]]] = {}
        for row in select_in(self._connection, f"SELECT {_COLUMNS}, tenant, user FROM entry WHERE id IN ({{in}})", ids):
            cited = sorted(sources.get((row[0], row[1]), []))
            known.setdefault(row[0], {})[row[1]] = (*row[:16], (row[16], row[17]), cited)
        return known

    def _entry_row(self, row: Row) -> tuple[Any, ...]:
        said = moment(row["event_time"])
        return (
            row["id"],
            row["version"],
            row["kind"],
            row["text"],
            to_ms(said),
            offset_of(said),
            _ms(row["valid_to"]),
            _ms(row["recorded_at"]),
            _ms(row["superseded_at"]),
            row["run_id"],
            row["state"],
            row["session"],
            row["speaker"],
            row["role"],
            to_json(row["tags"]),
            to_json(row["metadata"]),
        )

    def _parked(self) -> None:
        for row in self._records.parked:
            sensing = row["stage"] == "sense"
            item = self._new.get(row["message"]) if sensing else self._segments.get(row["segment"])
            if item is not None:
                self._connection.execute(
                    "INSERT OR IGNORE INTO parked (stage, tenant, user, item, error, attempts, parked_ms) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (row["stage"], *self._key, item, row["error"], row["attempts"], _ms(row["since"])),
                )

    def _one(self, sql: str, *values: Any) -> Any:
        return self._connection.execute(sql, values).fetchone()


_COLUMNS = (
    "id, version, kind, text, valid_from, offset_s, valid_to, recorded_at, superseded_at, run_id, state, session, "
    "speaker, role, tags, metadata"
)


def _sources(row: Row) -> list[tuple[str, int, int]]:
    return sorted((source["message"], source["start"], source["end"]) for source in row["sources"])


def _piece_texts(records: UserRecords, row: Row, spoken: Spoken) -> Iterator[str]:
    message = records.by_id[row["message"]]
    for piece in row["pieces"]:
        yield spoken(message["speaker"], message["content"][piece["start"] : piece["end"]])


def _entry_text(records: UserRecords, row: Row, spoken: Spoken) -> str:
    first = records.firsts[row["id"]]
    source = first["sources"][0]
    words = records.by_id[source["message"]]["content"][source["start"] : source["end"]]
    is_edited = first["text"] != row["text"]
    return embedded_text(row["kind"], row["speaker"], row["text"], None if is_edited else words, spoken)


def _ms(time: str | None) -> int | None:
    return None if time is None else to_ms(moment(time))
