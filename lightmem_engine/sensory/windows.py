"""Cut the turns of a session into windows that one classifier pass can read. Pure.

A window holds consecutive turns of every role up to a token budget, and before them a little of what was said last, so
that each turn's attention to its predecessor exists. A turn too long for one window goes on in the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightmem_engine.types import Window


@dataclass(frozen=True, slots=True)
class Stretch:
    """Characters [start, end) of turn `turn` of a job, and how many tokens they are."""

    turn: int
    start: int
    end: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A window to be: its own stretches in order, each joined from neighbouring ones of the same turn."""

    stretches: tuple[Stretch, ...]


def plan(stretches: Sequence[Stretch], budget: int) -> list[Plan]:
    """Fill windows in order; none holds more than `budget` tokens unless a single stretch does."""
    windows: list[list[Stretch]] = []
    used = 0
    for stretch in stretches:
        if not windows or used + stretch.num_tokens > budget:
            windows.append([])
            used = 0
        windows[-1].append(stretch)
        used += stretch.num_tokens
    return [Plan(_joined(window)) for window in windows]


def _joined(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Neighbouring stretches of one turn as one, with the white space between them."""
    out: list[Stretch] = []
    for s in stretches:
        if out and out[-1].turn == s.turn:
            out[-1] = Stretch(s.turn, out[-1].start, s.end, out[-1].num_tokens + s.num_tokens)
        else:
            out.append(s)
    return tuple(out)


def context_of(window: Plan, texts: Sequence[str], before: Sequence[str], num_texts: int) -> tuple[str, ...]:
    """The texts just before a window, oldest first, at most `num_texts`: earlier turns of the job, and before those
    `before`; a turn that the window continues counts as its own predecessor."""
    first = window.stretches[0]
    earlier = [*before, *texts[: first.turn], texts[first.turn][: first.start]]
    return tuple(text for text in earlier if text.strip())[-num_texts:] if num_texts else ()


def tails(texts: Sequence[str], counts: Sequence[int], room: int) -> tuple[str, ...]:
    """The last texts that fit into `room` tokens, oldest first; the earliest of them may be cut at its beginning.

    counts: tokens of each text. A cut assumes that tokens spread evenly over the characters, so count again.
    """
    kept: list[str] = []
    for text, count in zip(reversed(texts), reversed(counts), strict=True):
        if count > room:
            tail = _tail(text, room / count) if room > 0 else ""
            return (*((tail,) if tail.strip() else ()), *reversed(kept))
        kept.append(text)
        room -= count
    return tuple(reversed(kept))


def _tail(text: str, share: float) -> str:
    cut = len(text) - int(len(text) * share)
    space = text.find(" ", cut)
    return text[cut:] if space < 0 or space - cut > 40 else text[space + 1 :]


def window(
    planned: Plan,
    texts: Sequence[str],
    context: Sequence[str],
    document_frequency: Mapping[str, int],
    num_documents: int,
) -> Window:
    """The classifier's input for a plan."""
    own = (texts[s.turn][s.start : s.end] for s in planned.stretches)
    return Window((*context, *own), len(context), document_frequency, num_documents)
