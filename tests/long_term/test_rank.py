"""The fused score, one sign at a time."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from lightmem_engine.long_term.query import DateMention, read
from lightmem_engine.long_term.rank import Weights, date_term, fuse, meaning_term, order, speaker_term
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import Columns, Floats, IndexDoc, Role


def columns(*rows: tuple[str, Role, str], when: str = "2023-05-08") -> Columns:
    index = UserIndex(2)
    moment = datetime.fromisoformat(when).replace(tzinfo=UTC)
    index.apply(
        [
            IndexDoc("put", str(i), str(i), role=role, speaker=speaker, text=text, event_time=moment)
            for i, (text, role, speaker) in enumerate(rows)
        ],
        1,
    )
    return index.columns()


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


CHAT = columns(("I have a cat.", "user", "user"), ("Cats purr.", "assistant", "assistant"), ("Do they?", "user", ""))
FRIENDS = columns(("Hi Bob", "user", "Ann"), ("Hi Ann", "assistant", "Bob"), ("Fine", "user", "Ann"))


def test_people_come_before_an_unnamed_assistant() -> None:
    assert speaker_term(read("Which pet do I have?", CHAT.speakers), CHAT).tolist() == [1.5, 0, 1.5]


def test_unless_the_assistant_is_asked_for() -> None:
    assert speaker_term(read("What did you say of pets?", CHAT.speakers), CHAT).tolist() == [0, 1.5, 0]


def test_the_one_speaker_named_comes_first() -> None:
    found = speaker_term(read("What did Bob say?", FRIENDS.speakers), FRIENDS)
    np.testing.assert_allclose(found, [0, 0.7, 0], rtol=1e-6)


@pytest.mark.parametrize("text", ["What did Ann and Bob say?", "Who is fine?"])
def test_two_names_or_none_among_people_say_nothing(text: str) -> None:
    found = speaker_term(read(text, FRIENDS.speakers), FRIENDS)
    assert len(set(found.tolist())) == 1


def test_dates_count_by_the_share_of_parts_that_agree() -> None:
    days = np.array([datetime(2023, 5, 8).toordinal(), datetime(2023, 6, 8).toordinal(), 0], np.int32)
    np.testing.assert_allclose(date_term([DateMention(2023, 5, 8)], days), [1, 2 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(date_term([DateMention(None, 6), DateMention(2021)], days), [0, 1, 0])
    assert date_term([], days).tolist() == [0, 0, 0]


def test_strategies_read_their_own_index() -> None:
    question = read("anything", FRIENDS.speakers)
    lexical, cosine = floats(4, 2, 0), floats(0.1, 0.9, 0.2)
    context = fuse(question, FRIENDS, lexical, None, "context")
    np.testing.assert_allclose(context - context[2], [1, 0.5, 0], atol=1e-6)
    assert np.argmax(fuse(question, FRIENDS, None, cosine, "embedding")) == 1
    weightless = fuse(question, FRIENDS, lexical, cosine, "hybrid", Weights(dense=0, around=0, answer=0))
    np.testing.assert_allclose(weightless, context, atol=1e-6)


def test_a_document_without_a_vector_is_found_by_its_words() -> None:
    question = read("anything", FRIENDS.speakers)
    scores = fuse(question, FRIENDS, floats(0, 1, 5), floats(0.5, 0.1, np.nan), "embedding")
    assert np.argmax(scores) == 2
    assert np.isfinite(scores).all()
    assert np.isfinite(fuse(question, FRIENDS, floats(0, 0, 0), floats(np.nan, np.nan, np.nan))).all()


def test_a_question_ranks_below_a_statement() -> None:
    scores = fuse(read("pets", CHAT.speakers), CHAT, floats(1, 0, 1), None, "context")
    assert scores[0] > scores[2]


def talk(*texts: str, sessions: str = "") -> Columns:
    """Turns of one session, or each of the session named by its letter."""
    index = UserIndex(2)
    index.apply(
        [
            IndexDoc("put", str(i), str(i), session=(sessions or "s" * len(texts))[i], position=(i, 0), text=text)
            for i, text in enumerate(texts)
        ],
        1,
    )
    return index.columns()


def test_what_is_said_around_a_turn_lends_it_meaning() -> None:
    cosine = floats(0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1)
    found = meaning_term(talk(*"abcdefg"), cosine, floats(*[0] * 7), weights=Weights(dense=0, answer=0))
    assert found[1] > found[3] > found[5]
    assert found[5] == pytest.approx(found[6])


def test_another_session_lends_nothing() -> None:
    cosine = floats(0.9, 0.1, 0.9, 0.1)
    near = meaning_term(talk(*"abcd", sessions="sstt"), cosine, floats(0, 0, 0, 0), weights=Weights(dense=0, answer=0))
    assert near[1] == pytest.approx(near[3])


def test_the_turn_after_a_question_like_this_one_may_be_its_answer() -> None:
    columns, cosine = talk("How old is he?", "Nine.", "I see.", "Nine.", sessions="ssss"), floats(0.9, 0.1, 0.1, 0.1)
    found = meaning_term(columns, cosine, floats(0, 0, 0, 0), weights=Weights(dense=0, around=0))
    assert found[1] > 0
    assert found[[0, 2, 3]].tolist() == [0, 0, 0]


def test_neighbours_without_vectors_neither_lend_nor_break() -> None:
    cosine = floats(np.nan, 0.1, np.nan, np.nan, np.nan, np.nan)
    found = meaning_term(talk(*"ab?defg"[:6]), cosine, floats(0, 0, 1, 0, 0, 1))
    assert np.isfinite(found).all()


def test_order_masks_cuts_and_is_stable() -> None:
    scores = floats(1, 3, 3, 2, 3)
    everything = np.ones(5, np.bool_)
    assert order(scores, everything, 9).tolist() == [1, 2, 4, 3, 0]
    assert order(scores, everything, 2).tolist() == [1, 2]
    assert order(scores, np.array([1, 0, 1, 1, 0], np.bool_), 2).tolist() == [2, 3]
    assert order(scores, ~everything, 2).tolist() == []
