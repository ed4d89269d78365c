"""The index of one user against a rebuilt one, whatever came before."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import InvalidInput
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import STATES, IndexDoc

DIM = 4
START = datetime(2023, 5, 8, tzinfo=UTC)
WORDS = ["kiwi", "paris", "march", "trip", "boat", "ann", "blue", "the"]


def vector(seed: int) -> npt.NDArray[np.float32]:
    raw = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


def doc(number: int, text: str, session: str = "s", piece: int = 0, **changes: object) -> IndexDoc:
    base = IndexDoc(
        "put",
        f"m{number}.{piece}",
        f"r{number}.{piece}",
        session=session,
        position=(number, piece),
        text=text,
        speaker="Ann",
        event_time=START + timedelta(minutes=number),
        recorded_at=START,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def picture(index: UserIndex) -> dict[str, tuple[object, ...]]:
    """Everything a search can see, by ref."""
    columns = index.columns()
    lexical = [index.lexical([word]) for word in WORDS]
    cosine = index.cosine(vector(1))
    graph = index.graph(WORDS, far=True)
    return {
        columns.refs[slot]: (
            columns.state[slot],
            columns.speakers[columns.speaker[slot]],
            columns.sessions[columns.session[slot]],
            columns.event_time[slot],
            columns.num_tokens[slot],
            columns.asks[slot],
            columns.tags[slot],
            [round(float(scores[slot]), 4) for scores in lexical],
            round(float(graph[slot]), 4),
            [columns.refs[link[slot]] if link[slot] >= 0 else None for link in (columns.before, columns.after)],
            None if np.isnan(cosine[slot]) else round(float(cosine[slot]), 5),
        )
        for slot in np.flatnonzero(columns.live).tolist()
    }


texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
puts = st.builds(
    lambda number, piece, text, state, speaker, seed: doc(
        number,
        text,
        session=f"s{number % 3}",
        piece=piece,
        state=state,
        speaker=speaker,
        vector=None if seed is None else vector(seed),
        tags=(state,),
        names=tuple(text.split()[:2]),
    ),
    st.integers(1, 15),
    st.integers(0, 1),
    texts,
    st.sampled_from(STATES),
    st.sampled_from(["Ann", "Bob"]),
    st.one_of(st.none(), st.integers(0, 5)),
)
drops = st.builds(lambda n, piece: IndexDoc("drop", f"m{n}.{piece}", ""), st.integers(1, 15), st.integers(0, 1))


@given(log=st.lists(st.one_of(puts, puts, drops), max_size=60), seed=st.integers(0, 3))
def test_any_history_equals_a_fresh_index(log: list[IndexDoc], seed: int) -> None:
    index = UserIndex(DIM)
    current: dict[str, IndexDoc] = {}
    for i, change in enumerate(log):
        index.apply([change], i + 1)
        old = current.pop(change.key, None)
        if change.op == "put":
            is_same_text = old is not None and old.text == change.text and old.session == change.session
            if change.vector is None and old is not None and is_same_text:
                change = dataclasses.replace(change, vector=old.vector)
            current[change.key] = change
    index.check()
    fresh = UserIndex(DIM)
    docs = list(current.values())
    np.random.default_rng(seed).shuffle(docs)
    fresh.apply(docs, len(log))
    fresh.check()
    assert picture(index) == picture(fresh)
    assert len(index) == len(fresh) == len(current)


def test_compaction_changes_nothing_that_can_be_seen() -> None:
    index = UserIndex(DIM)
    for number in range(1, 400):
        index.apply([doc(number, f"{WORDS[number % 8]} w{number}", vector=vector(number))], number)
    for number in range(1, 400):
        if number % 4:
            index.apply([IndexDoc("drop", f"m{number}.0", "")], 400 + number)
    assert len(index.columns().live) < 300  # it did compact
    index.check()
    fresh = UserIndex(DIM)
    fresh.apply(
        [doc(n, f"{WORDS[n % 8]} w{n}", vector=vector(n)) for n in range(4, 400, 4)],
        1,
    )
    assert picture(index) == picture(fresh)


def test_the_same_text_is_not_indexed_again() -> None:
    index = UserIndex(DIM)
    index.apply([doc(1, "kiwi trip")], 1)
    index.apply([doc(1, "kiwi trip", state="active", ref="entry", kind="turn", vector=vector(1))], 2)
    assert len(index.columns().live) == 1
    assert list(index.columns().refs) == ["entry"]
    assert not np.isnan(index.cosine(vector(1))[0])
    index.apply([doc(1, "kiwi trip", state="superseded", ref="entry")], 3)
    assert not np.isnan(index.cosine(vector(1))[0])  # a change of state keeps the vector
    index.apply([doc(1, "boat trip")], 4)
    assert np.isnan(index.cosine(vector(1))[-1])  # other text does not
    assert index.applied_seq == 4


def test_a_message_becomes_pieces_and_pieces_become_entries() -> None:
    index = UserIndex(DIM)
    index.apply([doc(1, "before"), doc(2, "kiwi boat"), doc(3, "after")], 3)
    index.apply([doc(2, "kiwi", vector=vector(1)), doc(2, "boat", piece=1, vector=vector(2))], 5)
    index.check()
    assert len(index) == 4
    assert index.lexical(["kiwi"])[index.columns().refs.index("r2.0")] > 0
    index.apply([IndexDoc("drop", "m2.0", ""), IndexDoc("drop", "m2.1", ""), IndexDoc("drop", "m2.1", "")], 8)
    index.check()
    assert len(index) == 2
    assert not index.lexical(["kiwi"]).any()


def test_the_day_is_the_speakers_own() -> None:
    index = UserIndex(DIM)
    late = datetime.fromisoformat("2023-05-08T23:30:00-07:00")
    index.apply([doc(1, "x", event_time=late)], 1)
    assert index.columns().day[0] == late.date().toordinal()


def test_a_vector_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="dimension 4"):
        UserIndex(DIM).apply([doc(1, "x", vector=np.ones(3, np.float32))], 1)


def test_ten_thousand_messages_of_five_hundred_users_fit_in_memory() -> None:
    total = 0
    for user in range(50):  # a tenth of them: users do not share anything
        index = UserIndex(384)
        for i in range(20):
            text = " ".join(f"word{(user * 31 + i * 17 + j * 7) % 3000}" for j in range(40))
            index.apply([doc(i, text, vector=np.full(384, 0.05, np.float32))], i)
        total += index.nbytes
    assert total * 10 < 30e6


def test_a_lent_vector_serves_until_the_documents_own_arrives() -> None:
    index = UserIndex(DIM)
    index.apply([doc(1, "kiwi trip", vector=vector(1)), doc(2, "boat " * 900), doc(3, "paris")], 3)
    waiting = index.waiting()
    assert [(one.key, one.speaker) for one in waiting] == [("m2.0", "Ann"), ("m3.0", "Ann")]
    assert len(waiting[0].text) == 1000
    index.lend(waiting, np.stack([vector(2), vector(3)]))
    index.check()
    assert index.waiting() == []
    assert not np.isnan(index.cosine(vector(1))).any()
    index.apply([doc(3, "paris", vector=vector(9))], 4)
    assert index.cosine(vector(9))[2] == pytest.approx(1)
    index.apply([doc(2, "another text")], 5)
    assert [one.text for one in index.waiting()] == ["another text"]


def test_vectors_are_not_lent_to_what_has_changed_meanwhile() -> None:
    index = UserIndex(DIM)
    index.apply([doc(1, "kiwi"), doc(2, "boat"), doc(3, "paris")], 3)
    waiting = index.waiting()
    index.apply([doc(1, "other words"), IndexDoc("drop", "m2.0", ""), doc(3, "paris", vector=vector(3))], 6)
    index.lend(waiting, np.stack([vector(1), vector(1), vector(1)]))
    index.check()
    columns = index.columns()
    assert np.isnan(index.cosine(vector(1))[columns.refs.index("r1.0")]) or not columns.live[0]
    assert [one.text for one in index.waiting()] == ["other words"]
    assert index.cosine(vector(3))[2] == pytest.approx(1)


def test_only_the_newest_wait_and_what_was_given_up_waits_no_more() -> None:
    index = UserIndex(DIM)
    index.apply([doc(number, f"word{number}") for number in range(40)], 40)
    assert [one.key for one in index.waiting()] == [f"m{number}.0" for number in range(24, 40)]
    index.lend(index.waiting(), None)
    assert index.waiting() == []
    assert np.isnan(index.cosine(vector(1))).all()
