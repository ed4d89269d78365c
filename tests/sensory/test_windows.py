"""Windows within the budget, contexts before them, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.sensory.windows import Cut, Cutter, Session, tails


def by_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def by_characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def whole(*texts: str, before: Sequence[str] = ()) -> Session:
    return Session(texts, [[(0, len(text))] for text in texts], before)


def cutter(max_tokens: int = 10, context_texts: int = 1, context_tokens: int = 3) -> Cutter:
    return Cutter(by_words, max_tokens=max_tokens, context_texts=context_texts, context_tokens=context_tokens)


def read(session: Session, cuts: Sequence[Cut]) -> list[list[str]]:
    return [[session.texts[s.text][s.start : s.end] for s in cut.stretches] for cut in cuts]


def test_consecutive_texts_fill_a_window() -> None:
    session = whole("a b c", "d e", "f g", "h i j k l m n")
    cuts = cutter().cut([session])
    assert read(session, cuts) == [["a b c", "d e", "f g"], ["h i j k l m n"]]
    assert [cut.context for cut in cuts] == [(), ("f g",)]


def test_what_was_said_before_the_job_is_read_along() -> None:
    session = whole("a b", before=["x", "one two three four five"])
    (cut,) = cutter().cut([session])
    assert cut.context == ("four five",)


def test_several_texts_before_share_the_room() -> None:
    (cut,) = cutter(context_texts=3).cut([whole("a", before=["o", "p q r", "s"])])
    assert cut.context == ("q r", "s")


def test_a_long_text_goes_on_in_the_next_window_which_reads_its_end_along() -> None:
    text = "a b c d e f g h i"
    session = Session([text], [[(0, 7), (8, 15), (16, 17)]])
    cuts = cutter().cut([session])
    assert read(session, cuts) == [["a b c d"], ["e f g h i"]]
    assert cuts[1].context == ("b c d",)


def test_stretches_of_one_text_are_read_as_one() -> None:
    session = Session(["a b c d"], [[(0, 3), (4, 7)]])
    (cut,) = cutter().cut([session])
    assert [(s.start, s.end, s.num_tokens) for s in cut.stretches] == [(0, 7, 4)]


def test_a_stretch_with_more_tokens_than_a_window_is_halved() -> None:
    text = "x" * 25
    session = whole(text)
    cuts = Cutter(by_characters, max_tokens=10, context_texts=1, context_tokens=3).cut([session])
    assert "".join(part for window in read(session, cuts) for part in window) == text
    assert all(len(part) <= 7 for window in read(session, cuts) for part in window)


def test_sessions_do_not_see_each_other() -> None:
    cuts = cutter().cut([whole("a"), whole("b"), Session([], [])])
    assert [(cut.session, cut.context) for cut in cuts] == [(0, ()), (1, ())]


def test_tails_keep_the_end() -> None:
    assert tails(["a b c d", "e"], [4, 1], 3) == ("c d", "e")
    assert tails(["a b", "c d e"], [2, 3], 3) == ("c d e",)
    assert tails(["a"], [1], 0) == ()


@given(
    st.lists(st.lists(st.text("ab ", min_size=1, max_size=40).filter(str.strip), max_size=6), max_size=4),
    st.integers(8, 20),
)
def test_no_window_is_too_long_and_no_text_is_lost(sessions: list[list[str]], max_tokens: int) -> None:
    jobs = [whole(*texts) for texts in sessions]
    cuts = Cutter(by_characters, max_tokens=max_tokens, context_texts=2, context_tokens=3).cut(jobs)
    for number, job in enumerate(jobs):
        own = [s for cut in cuts if cut.session == number for s in cut.stretches]
        for t, text in enumerate(job.texts):
            assert "".join(text[s.start : s.end] for s in own if s.text == t) == text
    for cut in cuts:
        parts = [*cut.context, *(jobs[cut.session].texts[s.text][s.start : s.end] for s in cut.stretches)]
        assert sum(map(len, parts)) <= max_tokens
        assert sum(map(len, cut.context)) <= 3
