"""Cut the turns of sessions into windows that one classifier pass can read. Pure, given a tokenizer's counts.

A window holds consecutive turns of every role up to a token budget, and before them a little of what was said last, so
that each turn's attention to its predecessor exists. A turn too long for one window goes on in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Count = Callable[[Sequence[str]], Sequence[int]]

# No tokenizer makes fewer tokens of more characters than this, so longer tails need not be counted.
_MAX_TOKEN_CHARS = 24


@dataclass(frozen=True, slots=True)
class Session:
    """What is to be read of one session: its new texts, where each may be cut (character ranges that cover it), and
    the texts before them, oldest first."""

    texts: Sequence[str]
    spans: Sequence[Sequence[tuple[int, int]]]
    before: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Characters [start, end) of new text `text` of a session, and how many tokens they are."""

    text: int
    start: int
    end: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A window to be: stretches of one session in order, and the texts before them that are read along."""

    session: int
    stretches: tuple[Stretch, ...]
    context: tuple[str, ...]


class Cutter:
    """Cuts sessions into windows of `max_tokens` (special tokens not counted), context included."""

    def __init__(self, count: Count, *, max_tokens: int, context_texts: int, context_tokens: int) -> None:
        """At most `context_texts` texts and `context_tokens` tokens are read along before a window's own."""
        self._count = count
        self._context_texts, self._context_tokens = context_texts, context_tokens
        self._budget = max_tokens - context_tokens

    def cut(self, sessions: Sequence[Session]) -> list[Cut]:
        """Windows of all sessions, in order."""
        spans = [[(t, a, b) for t, own in enumerate(s.spans) for a, b in own] for s in sessions]
        parts = [s.texts[t][a:b] for s, own in zip(sessions, spans, strict=True) for t, a, b in own]
        counts = iter(self._count(parts) if parts else ())
        found: list[tuple[int, tuple[Stretch, ...]]] = []
        for number, (session, own) in enumerate(zip(sessions, spans, strict=True)):
            pieces = (Stretch(t, a, b, next(counts)) for t, a, b in own)
            stretches = [s for piece in pieces for s in self._fitting(session.texts[piece.text], piece)]
            found += [(number, _joined(group)) for group in _groups(stretches, self._budget)]
        contexts = [_before(sessions[number], stretches[0], self._context_texts) for number, stretches in found]
        shortened = self._shortened(contexts)
        return [Cut(number, own, context) for (number, own), context in zip(found, shortened, strict=True)]

    def _fitting(self, text: str, stretch: Stretch) -> Iterator[Stretch]:
        """The stretch, or the halves of it that fit a window: some runs of characters have a token each."""
        if stretch.num_tokens <= self._budget or stretch.end - stretch.start < 2:
            yield stretch
            return
        middle = (stretch.start + stretch.end) // 2
        for start, end in ((stretch.start, middle), (middle, stretch.end)):
            yield from self._fitting(text, Stretch(stretch.text, start, end, self._count([text[start:end]])[0]))

    def _shortened(self, contexts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Each cut from its beginning until it has no more tokens than allowed."""
        room = self._context_tokens
        current = [tuple(text[-room * _MAX_TOKEN_CHARS :] for text in context) for context in contexts]
        pending = [i for i, context in enumerate(current) if context]
        while pending:
            counts = iter(self._count([text for i in pending for text in current[i]]))
            again = []
            for i in pending:
                own = [next(counts) for _ in current[i]]
                if sum(own) > room:
                    shorter = tails(current[i], own, room)
                    # A tail that would not shrink further is given up rather than counted for ever.
                    current[i] = shorter if shorter != current[i] else ()
                    again.append(i)
            pending = [i for i in again if current[i]]
        return current


def tails(texts: Sequence[str], counts: Sequence[int], room: int) -> tuple[str, ...]:
    """The last texts that fit into `room` tokens, oldest first; the earliest of them may lose its beginning.

    counts: tokens of each text. A cut assumes that tokens spread evenly over the characters, so count again.
    """
    kept: list[str] = []
    for text, count in zip(reversed(texts), reversed(counts), strict=True):
        if count > room:
            tail = _tail(text, room / count)
            return (*((tail,) if tail.strip() else ()), *reversed(kept))
        kept.append(text)
        room -= count
    return tuple(reversed(kept))


def _tail(text: str, share: float) -> str:
    cut = len(text) - int(len(text) * share)
    if text[cut - 1].isspace():
        return text[cut:]
    space = text.find(" ", cut)
    return text[cut:] if space < 0 or space - cut > 2 * _MAX_TOKEN_CHARS else text[space + 1 :]


def _groups(stretches: Sequence[Stretch], budget: int) -> Iterator[list[Stretch]]:
    group: list[Stretch] = []
    used = 0
    for stretch in stretches:
        if group and used + stretch.num_tokens > budget:
            yield group
            group, used = [], 0
        group.append(stretch)
        used += stretch.num_tokens
    if group:
        yield group


def _joined(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Neighbouring stretches of one text as one, with the white space between them."""
    out: list[Stretch] = []
    for s in stretches:
        if out and out[-1].text == s.text:
            out[-1] = Stretch(s.text, out[-1].start, s.end, out[-1].num_tokens + s.num_tokens)
        else:
            out.append(s)
    return tuple(out)


def _before(session: Session, first: Stretch, most: int) -> tuple[str, ...]:
    """The last texts before a stretch; a text that the window continues counts as its own predecessor."""
    found: list[str] = []
    earlier = session.texts[first.text][: first.start].rstrip()
    sources = ([earlier], reversed(session.texts[: first.text]), reversed(session.before))
    for text in (text for source in sources for text in source if text.strip()):
        if len(found) == most:
            break
        found.append(text)
    return tuple(reversed(found))
