"""Conversations that have just been answered: the newest of each session, bounded, not for long."""

from __future__ import annotations

import pytest

from lightmem_engine.runtime import finished
from lightmem_engine.runtime.finished import Conversation, Finished
from lightmem_engine.types import Scope

ANN, BOB = Scope("ann"), Scope("ann", "other tenant")


def said(text: str) -> Conversation:
    return Conversation(({"role": "user", "content": text},), 1, "salt")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_newest_of_each_session_is_found_and_nobody_elses() -> None:
    known = Finished(60)
    known.add(ANN, "s", said("one"))
    known.add(ANN, "s", said("two"))
    known.add(BOB, "s", said("three"))
    assert known.find(ANN, "s") == said("two")
    assert known.find(BOB, "s") == said("three")
    assert known.find(ANN, "t") is None


def test_what_is_erased_or_goes_on_is_forgotten() -> None:
    known = Finished(60)
    for session in ("s", "t"):
        known.add(ANN, session, said(session))
    known.add(BOB, "s", said("b"))
    known.drop(ANN, "s")
    assert known.find(ANN, "s") is None
    known.forget(ANN)
    assert known.find(ANN, "t") is None
    assert known.find(BOB, "s") is not None


def test_it_is_forgotten_with_time() -> None:
    clock = Clock()
    known = Finished(60, clock)
    known.add(ANN, "s", said("one"))
    clock.now = 30
    known.add(ANN, "t", said("two"))
    clock.now = 61
    assert known.find(ANN, "s") is None
    assert known.find(ANN, "t") is not None


def test_all_together_stay_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "MAX_CHARS", 10)
    known = Finished(60)
    for session in "abc":
        known.add(ANN, session, said("12345"))
    assert [known.find(ANN, session) is not None for session in "abc"] == [False, True, True]
    known.add(ANN, "d", said("x" * 11))
    assert known.find(ANN, "d") is None


def test_nothing_is_held_where_nobody_asks() -> None:
    known = Finished(0)
    known.add(ANN, "s", said("one"))
    assert known.find(ANN, "s") is None
    assert not known._known
