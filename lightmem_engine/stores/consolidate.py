"""Decisions of sleep carried out: new versions of entries, never less than there was.

Each decision is checked against what is stored under the write lock, so that nothing is done to an entry that changed
since it was read. Superseded and folded entries stay, with their sources, under a state that recall passes over.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lightmem_engine.stores import edges, runs, sleep_notes, work
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import select_in, to_blob, to_ms
from lightmem_engine.stores.versions import advance
from lightmem_engine.types import Decision, Scope, SleepNote, State, Usage, Vector

SLEEP = "sleep"


@dataclass(frozen=True, slots=True)
class Spent:
    """What it took to decide. undecided: pairs that came back without a usable answer."""

    pairs: int = 0
    calls: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    undecided: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of some decisions. is_alive: the run is still there; its user may have been erased.
    is_whole: none of the entries that were read is gone."""

    applied: int = 0
    rejected: int = 0
    stale: int = 0
    is_alive: bool = True
    is_whole: bool = True


def apply(
    connection: sqlite3.Connection,
    scope: Scope,
    run: str,
    decisions: Sequence[Decision],
    notes: Mapping[str, SleepNote],
    spent: Spent,
    embed_model: str,
    now: datetime,
) -> Applied:
    """Carry out what was decided together, count what it took, and remember it; all in the caller's transaction.

    notes: every entry that the decisions name, as it was read.
    """
    if runs.state_of(connection, run) != "running":
        return Applied(is_alive=False, is_whole=False)
    writer = _Writer(connection, scope, run, notes, embed_model, now)
    applied = rejected = stale = 0
    for decision in decisions:
        if not all(writer.stands(id) for id in (decision.target, *_named(decision))):
            stale += 1
            continue
        if decision.rejected:
            rejected += 1
        elif decision.action != "ignore":
            applied += writer.carry_out(decision)
        if not writer.gone.intersection((decision.target, *decision.sources)):
            sleep_notes.mark_decided(connection, scope, run, decision, notes)
    if spent.calls and not writer.gone:
        work.add_usage(connection, scope, SLEEP, spent.calls, spent.usage, spent.seconds)
    runs.count(
        connection,
        run,
        pairs=spent.pairs,
        calls=spent.calls,
        prompt_tokens=spent.usage.prompt_tokens,
        completion_tokens=spent.usage.completion_tokens,
        seconds=spent.seconds,
        undecided=spent.undecided,
        applied=applied,
        rejected=rejected,
        stale=stale,
    )
    edges.write(connection, writer.changed)
    record_changes(connection, scope, "entry", writer.changed)
    return Applied(applied, rejected, stale, is_whole=not writer.gone)


def _named(decision: Decision) -> tuple[str, ...]:
    return () if decision.by is None else (decision.by,)


class _Writer:
    """The state of one call of `apply`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        scope: Scope,
        run: str,
        notes: Mapping[str, SleepNote],
        embed_model: str,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._run = run
        self._notes = notes
        self._embed_model = embed_model
        self._now = now
        self.changed: dict[str, None] = {}
        sql = (
            "SELECT id, version, state, text FROM entry e WHERE tenant = ? AND user = ? AND id IN ({in}) "
            "AND version = (SELECT max(version) FROM entry l WHERE l.id = e.id)"
        )
        rows = select_in(connection, sql, notes, scope.tenant, scope.user)
        # Versions as they are now: decisions made together see what those before them did.
        self._versions: dict[str, int] = {
            id: version for id, version, state, text in rows if state == "active" and text == notes[id].text
        }
        self.gone = notes.keys() - {id for id, *_ in rows}

    def stands(self, id: str) -> bool:
        """Whether an entry is still active and reads as it did."""
        return id in self._versions

    def carry_out(self, decision: Decision) -> int:
        """Make the new versions; returns how many entries changed."""
        target, by = decision.target, decision.by
        match decision.action:
            case "supersede":
                assert by is not None
                self._replace(decision, target, by, "superseded", valid_to=self._notes[by].event_time)
                return 1
            case "duplicate":
                assert by is not None
                survivor = self._replace(decision, by, target, "active")
                self._unite(by, survivor, target)
                archived = self._replace(decision, target, by, "archived", valid_to=self._notes[by].event_time)
                self._link(target, archived, by, "duplicate")
                return 2
            case "update":
                assert by is not None
                text, vector = decision.texts[0], decision.vectors[0]
                merged = self._replace(decision, target, by, "active", text=text, vector=vector)
                self._unite(target, merged, by)
                del self._versions[target]  # it reads otherwise now: what else was decided of it is for the next look
                archived = self._replace(decision, by, target, "archived")
                self._link(by, archived, target, "merged")
                return 2
            case "split":
                for text, vector in zip(decision.texts, decision.vectors, strict=True):
                    self._link(self._part(decision, text, vector), 1, target, "split")
                self._replace(decision, target, None, "archived")
                return 1 + len(decision.texts)
            case "ignore":
                return 0

    def _replace(
        self,
        decision: Decision,
        id: str,
        other: str | None,
        state: State,
        *,
        text: str | None = None,
        vector: Vector | None = None,
        valid_to: datetime | None = None,
    ) -> int:
        """The next version of an entry, with the sources it had; returns its number."""
        before = self._versions[id]
        advance(
            *(self._connection, id, before, self._run, state, self._now),
            text=text,
            vector=vector,
            embed_model=self._embed_model,
            valid_to=valid_to,
        )
        self._note(decision, id, before, before + 1, state, other)
        if state == "active":
            self._versions[id] = before + 1
        else:
            del self._versions[id]
        return before + 1

    def _unite(self, id: str, version: int, other: str) -> None:
        """Let a version rest on the sources of another entry, too."""
        self._connection.execute(
            'INSERT OR IGNORE INTO entry_source SELECT ?, ?, message, start, "end" FROM entry_source s '
            "WHERE s.entry = ? AND s.version = (SELECT max(version) FROM entry l WHERE l.id = s.entry)",
            (id, version, other),
        )

    def _part(self, decision: Decision, text: str, vector: Vector) -> str:
        """A new entry beside the one it was split off; a fact, for it no longer is what somebody said word by word."""
        id = uuid.uuid4().hex
        key = (decision.target, self._versions[decision.target])
        self._connection.execute(
            "INSERT INTO entry SELECT ?, 1, tenant, user, CASE kind WHEN 'turn' THEN 'fact' ELSE kind END, ?, "
            "valid_from, offset_s, valid_to, ?, NULL, ?, 'active', segment, session, speaker, role, tags, metadata "
            "FROM entry WHERE id = ? AND version = ?",
            (id, text, to_ms(self._now), self._run, *key),
        )
        self._connection.execute(
            'INSERT INTO entry_source SELECT ?, 1, message, start, "end" FROM entry_source '
            "WHERE entry = ? AND version = ?",
            (id, *key),
        )
        self._store_vector(id, 1, vector)
        self._note(decision, id, None, 1, "active", decision.target)
        return id

    def _store_vector(self, id: str, version: int, vector: Vector) -> None:
        self._connection.execute(
            "INSERT INTO vector VALUES (?, ?, ?, ?)", (id, version, self._embed_model, to_blob(vector))
        )

    def _link(self, id: str, version: int, other: str, kind: str) -> None:
        self._connection.execute("INSERT INTO entry_link VALUES (?, ?, ?, ?)", (id, version, other, kind))

    def _note(
        self, decision: Decision, id: str, before: int | None, after: int, state: State, other: str | None
    ) -> None:
        self.changed[id] = None
        runs.note_change(
            *(self._connection, self._run, self._scope, decision.action, id, before, after, state, other),
            decision.reason,
        )
