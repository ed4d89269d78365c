"""Decisions applied and undone: the tables before and after."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_engine.errors import Conflict, NotFound
from lightmem_engine.stores import curate, entries, runs, schema, sleep_notes
from lightmem_engine.stores.consolidate import Spent, apply
from lightmem_engine.stores.delete import delete_entry
from lightmem_engine.stores.erase import erase_user
from lightmem_engine.stores.supersede import supersede as supersede_messages
from lightmem_engine.types import (
    Decision,
    EntryChange,
    EntryDraft,
    Scope,
    SleepBudget,
    SleepNote,
    Source,
    Usage,
    Vector,
)

ANN, BOB = Scope("ann"), Scope("bob")
NOW = datetime(2024, 1, 1, tzinfo=UTC)
TABLES = ("entry", "entry_source", "vector", "entry_link", "message")


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    schema.migrate(connection)
    return connection


def tell(connection: sqlite3.Connection, scope: Scope, number: int, text: str) -> str:
    """One message and the entry made of it."""
    said = NOW + timedelta(days=number)
    seq = connection.execute(
        "INSERT INTO message (tenant, user, id, session, role, speaker, content, event_ms, offset_s, recorded_ms, "
        "metadata, digest) VALUES (?, ?, ?, 's', 'user', 'user', ?, ?, 0, 0, '{}', x'00')",
        (scope.tenant, scope.user, f"m{number}", text, number * 1000),
    ).lastrowid
    assert seq is not None
    source = Source(f"m{number}", seq, 0, len(text))
    draft = EntryDraft("turn", f"user: {text}", "s", "user", "user", said, (source,))
    return entries.insert(connection, scope, [draft], [vector(number)], "stub", NOW)[0]


def vector(number: int) -> Vector:
    return np.array([number, 1], np.float32)


def notes_of(connection: sqlite3.Connection, scope: Scope = ANN) -> dict[str, SleepNote]:
    return {note.id: note for note in sleep_notes.load(connection, scope)}


def tables(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


def begin(connection: sqlite3.Connection, user: str | None = "ann") -> str:
    return runs.begin(connection, "default", user, "call", "llm", SleepBudget(0, 0, 0.0), NOW).id


def carry_out(connection: sqlite3.Connection, run: str, *decisions: Decision, scope: Scope = ANN) -> object:
    spent = Spent(len(decisions), 1, Usage(10, 5), 0.5)
    return apply(connection, scope, run, decisions, notes_of(connection, scope), spent, "stub", NOW)


def supersede(target: str, by: str) -> Decision:
    return Decision(target, "supersede", (by,), "r", by)


def duplicate(target: str, by: str) -> Decision:
    return Decision(target, "duplicate", (by,), "r", by)


def update(target: str, by: str, text: str) -> Decision:
    return Decision(target, "update", (by,), "r", by, (f"user: {text}",), (vector(99),))


def split(target: str, by: str, *texts: str) -> Decision:
    return Decision(target, "split", (by,), "r", None, texts, tuple(vector(80 + n) for n in range(len(texts))))


def states(connection: sqlite3.Connection, scope: Scope = ANN) -> dict[str, str]:
    ids = [id for (id,) in connection.execute("SELECT DISTINCT id FROM entry WHERE user = ?", (scope.user,))]
    return {id: entry.state for id, entry in curate.latest(connection, scope, ids).items()}


def test_superseded_holds_until_the_newer_one_was_said() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Rome")
    carry_out(connection, begin(connection), supersede(old, new))
    entry = curate.get(connection, ANN, old)
    assert (entry.state, entry.version, entry.valid_to) == ("superseded", 2, NOW + timedelta(days=2))
    assert entry.source_ids == ("m1",)
    assert states(connection)[new] == "active"


def test_a_duplicate_rests_on_the_messages_of_both() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Paris!")
    carry_out(connection, begin(connection), duplicate(old, new))
    assert states(connection) == {old: "archived", new: "active"}
    assert curate.get(connection, ANN, new).source_ids == ("m1", "m2")
    assert connection.execute("SELECT entry, other, kind FROM entry_link").fetchall() == [(old, new, "duplicate")]
    docs = {doc.ref: doc for doc in entries.changes(connection, ANN, 0)[0]}
    assert docs[new].key != docs[old].key, "each keeps its own place"
    assert docs[new].text == "Paris!"


def test_an_update_has_a_vector_of_its_own_text() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "a dog"), tell(connection, ANN, 2, "Rex")
    carry_out(connection, begin(connection), update(old, new, "a dog, Rex"))
    assert states(connection) == {old: "active", new: "archived"}
    merged = notes_of(connection)[old]
    assert (merged.text, merged.words) == ("user: a dog, Rex", "a dog, Rex")
    assert merged.vector.tolist() == vector(99).tolist()
    assert curate.get(connection, ANN, old).source_ids == ("m1", "m2")


def test_a_split_keeps_the_sources_and_the_whole() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "a dog and a cat"), tell(connection, ANN, 2, "Rex")
    carry_out(connection, begin(connection), split(old, new, "a dog", "a cat"))
    parts = [note for note in notes_of(connection).values() if note.is_part]
    assert sorted(part.text for part in parts) == ["a cat", "a dog"]
    assert all(part.kind == "fact" and part.event_time == NOW + timedelta(days=1) for part in parts)
    assert all(curate.get(connection, ANN, part.id).source_ids == ("m1",) for part in parts)
    assert states(connection)[old] == "archived"


def test_decisions_made_together_see_each_other() -> None:
    connection = database()
    a, b, c = (tell(connection, ANN, n, text) for n, text in enumerate(("Paris", "Paris!", "Rome")))
    done = carry_out(connection, begin(connection), duplicate(a, b), supersede(b, c), supersede(a, c))
    assert states(connection) == {a: "archived", b: "superseded", c: "active"}
    assert (done.applied, done.stale) == (3, 1)  # type: ignore[attr-defined]


def test_what_changed_since_it_was_read_is_left_alone() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Rome")
    read = notes_of(connection)
    curate.patch(connection, ANN, new, EntryChange(text="user: Oslo"), vector(3), "stub", NOW)
    run = begin(connection)
    done = apply(connection, ANN, run, [supersede(old, new)], read, Spent(), "stub", NOW)
    assert (done.applied, done.stale) == (0, 1)
    assert set(states(connection).values()) == {"active"}
    assert sleep_notes.decided(connection, ANN) == {}


def test_nothing_is_written_for_a_run_or_a_user_that_is_gone() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Rome")
    read, run, all_of_them = notes_of(connection), begin(connection), begin(connection, None)
    erase_user(connection, ANN)
    assert not apply(connection, ANN, run, [supersede(old, new)], read, Spent(), "stub", NOW).is_alive
    done = apply(connection, ANN, all_of_them, [supersede(old, new)], read, Spent(1, 1), "stub", NOW)
    sleep_notes.mark_seen(connection, ANN, read.values())
    assert (done.is_alive, done.is_whole, done.applied) == (True, False, 0)
    for table in ("entry", "sleep_pair", "sleep_seen", "sleep_change", "usage"):
        assert connection.execute(f"SELECT count(*) FROM {table} WHERE user = 'ann'").fetchone() == (0,)


def test_deleting_an_entry_deletes_what_was_folded_into_it() -> None:
    connection = database()
    a, b, c = (tell(connection, ANN, n, text) for n, text in enumerate(("Paris", "Paris!", "PARIS")))
    carry_out(connection, begin(connection), duplicate(a, b), duplicate(b, c))
    delete_entry(connection, ANN, c)
    for table in ("entry", "message", "entry_link", "sleep_pair", "sleep_seen"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_deleting_a_part_deletes_the_whole_and_not_the_other_part() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "a dog and a cat"), tell(connection, ANN, 2, "Rex")
    carry_out(connection, begin(connection), split(old, new, "a dog", "a cat"))
    dog, cat = sorted((n for n in notes_of(connection).values() if n.is_part), key=lambda n: n.text, reverse=True)
    delete_entry(connection, ANN, dog.id)
    assert states(connection) == {cat.id: "active", new: "active"}


def test_a_rollback_needs_a_run_that_is_over_and_untouched_entries() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Paris!")
    run = begin(connection)
    carry_out(connection, run, duplicate(old, new))
    with pytest.raises(Conflict, match="still running"):
        runs.roll_back(connection, "default", run, NOW)
    runs.end(connection, run, "done", None, NOW)
    with pytest.raises(NotFound):
        runs.roll_back(connection, "other", run, NOW)
    curate.patch(connection, ANN, new, EntryChange(tags=("x",)), None, "stub", NOW)
    before = tables(connection)
    with pytest.raises(Conflict, match="changed since"):
        runs.roll_back(connection, "default", run, NOW)
    assert tables(connection) == before
    delete_entry(connection, ANN, new)
    with pytest.raises(Conflict, match="changed since"):
        runs.roll_back(connection, "default", run, NOW)


def test_a_rollback_brings_nobody_back_who_was_erased() -> None:
    connection = database()
    run = begin(connection, None)
    told: dict[str, tuple[str, str]] = {}
    for number, scope in ((0, ANN), (10, BOB)):
        told[scope.user] = (tell(connection, scope, number, "Paris"), tell(connection, scope, number + 1, "Rome"))
        carry_out(connection, run, supersede(*told[scope.user]), scope=scope)
    runs.end(connection, run, "done", None, NOW)
    erase_user(connection, ANN)
    assert runs.roll_back(connection, "default", run, NOW).state == "rolled_back"
    assert states(connection, ANN) == {}
    assert states(connection, BOB) == dict.fromkeys(told["bob"], "active")
    with pytest.raises(Conflict, match="already"):
        runs.roll_back(connection, "default", run, NOW)


def test_what_a_branch_withdrew_meanwhile_does_not_come_back_with_a_rollback() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Rome")
    run = begin(connection)
    carry_out(connection, run, supersede(old, new))
    runs.end(connection, run, "done", None, NOW)
    (seq,) = connection.execute("SELECT seq FROM message WHERE id = 'm1'").fetchone()
    supersede_messages(connection, ANN, [seq], NOW)
    runs.roll_back(connection, "default", run, NOW)
    assert states(connection) == {old: "superseded", new: "active"}
    assert curate.get(connection, ANN, old).valid_to is None


def test_what_left_recall_in_a_run_needs_no_further_look() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Rome")
    carry_out(connection, begin(connection), supersede(old, new))
    sleep_notes.mark_seen(connection, ANN, notes_of(connection).values())
    assert sleep_notes.num_unseen(connection, ANN) == 0


def test_the_diff_shows_old_and_new_and_hides_what_was_deleted() -> None:
    connection = database()
    old, new, other = (tell(connection, ANN, n, text) for n, text in enumerate(("a dog", "Rex", "Rome")))
    run = begin(connection)
    carry_out(connection, run, update(old, new, "a dog, Rex"))
    first, second = runs.report(connection, "default", run).changes
    assert (first.action, first.before_text, first.after_text) == ("update", "user: a dog", "user: a dog, Rex")
    assert (first.entry, first.other, first.other_text, first.reason) == (old, new, "user: Rex", "r")
    assert (second.entry, second.after_state, second.before_text) == (new, "archived", "user: Rex")
    delete_entry(connection, ANN, old)
    assert {change.after_text for change in runs.report(connection, "default", run).changes} == {None}
    assert curate.get(connection, ANN, other).state == "active"


steps = st.lists(
    st.tuples(st.sampled_from(("supersede", "duplicate", "update", "split")), st.integers(0, 7), st.integers(0, 7)),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(steps=steps, groups=st.integers(1, 4), late=st.integers(0, 3))
def test_a_rollback_restores_every_table_and_keeps_later_writes(
    steps: list[tuple[str, int, int]], groups: int, late: int
) -> None:
    connection = database()
    ids = [tell(connection, ANN, n, f"number {n}") for n in range(8)]
    before = tables(connection)
    run = begin(connection)
    for start in range(0, len(steps), groups):
        made = []
        for action, low, high in steps[start : start + groups]:
            target, by = ids[min(low, high)], ids[max(low, high)]
            if target == by:
                continue
            match action:
                case "supersede":
                    made.append(supersede(target, by))
                case "duplicate":
                    made.append(duplicate(target, by))
                case "update":
                    made.append(update(target, by, f"{target} {by}"))
                case _:
                    made.append(split(target, by, "one", "two"))
        known = notes_of(connection)
        usable = [d for d in made if d.target in known and (d.by or d.sources[0]) in known]
        apply(connection, ANN, run, usable, known, Spent(), "stub", NOW)
        for id, sources in _messages_of_current(connection).items():
            assert sources, f"{id} lost its sources"
    runs.end(connection, run, "done", None, NOW)
    assert {id for (id,) in connection.execute("SELECT id FROM entry")} >= set(ids), "nothing is destroyed"
    expected = [tell(connection, ANN, 50 + n, f"later {n}") for n in range(late)]
    runs.roll_back(connection, "default", run, NOW)
    after = tables(connection)
    kept = {"entry": 0, "entry_source": 0, "vector": 0}
    assert {
        table: [row for row in rows if row[0] not in expected] for table, rows in after.items() if table in kept
    } == {table: before[table] for table in kept}
    assert after["entry_link"] == []
    assert len(notes_of(connection)) == 8 + late


def _messages_of_current(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    ids = [id for (id,) in connection.execute("SELECT DISTINCT id FROM entry")]
    return {id: entry.source_ids for id, entry in curate.latest(connection, ANN, ids).items()}


def test_pairs_and_texts_that_were_looked_at_are_remembered_by_their_texts() -> None:
    connection = database()
    old, new = tell(connection, ANN, 1, "Paris"), tell(connection, ANN, 2, "Rome")
    carry_out(connection, begin(connection), Decision(old, "ignore", (new,), "r"))
    pair = sleep_notes.digest("user: Paris", "user: Rome")
    assert sleep_notes.decided(connection, ANN) == {(old, new): pair}
    sleep_notes.mark_seen(connection, ANN, notes_of(connection).values())
    assert sleep_notes.num_unseen(connection, ANN) == 0
    assert sleep_notes.unseen_users(connection) == []
    curate.patch(connection, ANN, old, EntryChange(text="user: Oslo"), vector(5), "stub", NOW)
    assert sleep_notes.seen(connection, ANN)[old] != sleep_notes.digest("user: Oslo")
    tell(connection, BOB, 3, "Bonn")
    assert sleep_notes.unseen_users(connection, "default") == [BOB]
    assert sleep_notes.unseen_users(connection, "other") == []
    assert sleep_notes.users(connection, "default") == [ANN, BOB]
