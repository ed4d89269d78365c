"""The memory block: lines that stand still while a session lasts, so that the prompt's prefix stays cached. Pure.

A session begins from the user's last block and appends what is new, so that the old text is a prefix of the new one.
When the budget is full, a new epoch begins: the newest memories, facts first, in half of the budget.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.text import num_tokens, search_terms
from lightmem_engine.types import Block, Hit, Note

MIN_TERMS = 2  # content words of a line


def note_of(hit: Hit) -> Note:
    """A memory as its line stands in prompts."""
    return Note(hit.id, prompts.memory_line(hit))


def append(base: Block, fresh: Sequence[Hit], max_tokens: int) -> Block | None:
    """The block with new memories behind what it holds, the oldest of them first; None if the budget has no room."""
    notes = (*base.notes, *_by_time(_telling(fresh, base.notes)))
    if sum(num_tokens(note.line) for note in notes) > max_tokens:
        return None
    return Block(notes, base.epoch, _seen(base, fresh))


def rebuild(base: Block, newest: Sequence[Hit], max_tokens: int) -> Block:
    """A new epoch: as many of these memories, the first ones first, as half of the budget holds, oldest first."""
    kept, left = [], max_tokens // 2
    for hit in _telling(newest, ()):
        cost = num_tokens(prompts.memory_line(hit))
        if cost <= left:
            kept.append(hit)
            left -= cost
    return Block(tuple(_by_time(kept)), base.epoch + 1, _seen(base, newest))


def _telling(hits: Sequence[Hit], shown: Sequence[Note]) -> list[Hit]:
    """Those that tell something, each once: a greeting does not, nor what the block says already of another day."""
    said = {_undated(note.line) for note in shown}
    telling = []
    for hit in hits:
        text = _undated(prompts.memory_line(hit))
        words = search_terms(hit.text.removeprefix(f"{hit.speaker}:"))
        if text not in said and len(words) >= MIN_TERMS:
            said.add(text)
            telling.append(hit)
    return telling


def _undated(line: str) -> str:
    return line.partition("] ")[2]


def _by_time(hits: Sequence[Hit]) -> list[Note]:
    return [note_of(hit) for hit in sorted(hits, key=lambda hit: hit.event_time)]


def _seen(base: Block, hits: Sequence[Hit]) -> int:
    return max([base.seen_ms, *(int(hit.recorded_at.timestamp() * 1000) for hit in hits)])
