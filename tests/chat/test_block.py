"""What a memory block shows, and when it begins anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.chat.block import append, note_of, rebuild
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Block, Hit, Kind

START = datetime(2023, 5, 8, tzinfo=UTC)


def _hit(number: int, text: str = "", kind: Kind = "turn") -> Hit:
    moment = START + timedelta(days=number)
    text = text or f"user: parcel {number} holds apples"
    return Hit(f"e{number}", text, 0.0, kind, (f"m{number}",), moment, moment, "active", "user")


def _tokens(block: Block) -> int:
    return sum(num_tokens(note.line) for note in block.notes)


@given(st.lists(st.integers(1, 40), unique=True, max_size=12), st.lists(st.integers(41, 80), unique=True, max_size=12))
def test_a_block_only_grows_until_it_is_full(first: list[int], second: list[int]) -> None:
    block = append(Block(), [_hit(number) for number in first], 150)
    if block is None:
        block = rebuild(Block(), [_hit(number) for number in sorted(first, reverse=True)], 150)
        assert (block.epoch, _tokens(block) <= 75) == (1, True)
    hits = [_hit(number) for number in second]
    grown = append(block, hits, 150)
    if grown is None:
        assert _tokens(block) + sum(num_tokens(note_of(hit).line) for hit in hits) > 150
        return
    assert grown.notes[: len(block.notes)] == block.notes
    assert [note.id for note in grown.notes[len(block.notes) :]] == [f"e{number}" for number in sorted(second)]
    assert grown.epoch == block.epoch
    assert grown.seen_ms >= block.seen_ms


def test_a_new_epoch_takes_the_first_ones_that_fit_and_shows_them_by_time() -> None:
    facts = [_hit(9, "Ann owns a boat.", "fact"), _hit(2, "word " * 100, "fact"), _hit(1, "Ann is a nurse.", "fact")]
    turns = [_hit(8), _hit(7), _hit(6)]
    block = rebuild(Block(epoch=3), [*facts, *turns], 80)
    assert [note.id for note in block.notes] == ["e1", "e8", "e9"]
    assert block.epoch == 4


def test_greetings_and_repetitions_are_left_out() -> None:
    hits = [_hit(1, "user: hello"), _hit(2, "user: I like tea"), _hit(3, "user: I like tea"), _hit(4, "user: ok")]
    block = append(Block(), hits, 100)
    assert block is not None
    assert [note.id for note in block.notes] == ["e2"]
    again = append(block, [_hit(5, "user: I like tea")], 100)
    assert again is not None
    assert again.notes == block.notes
