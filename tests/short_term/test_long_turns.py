"""A gigantic message is read once, not once per piece."""

from __future__ import annotations

import pytest

from lightmem_engine.short_term import dates, extractive
from tests.short_term.sensed import segment, sensed


def test_dates_are_looked_up_once_per_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(text: str, event_time: object) -> list[dates.DateSpan]:
        nonlocal calls
        calls += 1
        return []

    monkeypatch.setattr(extractive, "date_spans", counted)
    text = "word " * 1000
    turn = sensed(1, text, pieces=[(i * 5, i * 5 + 4, "word") for i in range(1000)])
    assert len(extractive.drafts(segment(turn, id=1))) == 1000
    assert calls == 1
