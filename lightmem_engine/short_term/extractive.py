"""Entries without a model: each stretch of a turn, compressed, with its relative dates resolved. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lightmem_engine.short_term.dates import DateSpan, date_spans
from lightmem_engine.types import EntryDraft, Piece, Segment, SensedTurn, Source

_TOKEN = re.compile(r"\w+|[^\w\s]")
_CLOSING = frozenset(".,;:!?)]}%…”’")
_OPENING = frozenset("([{“‘$€£#@")
_REMEMBERED = frozenset(("user", "assistant"))


def drafts(segment: Segment) -> list[EntryDraft]:
    """One entry per piece of each user and assistant turn, in order; other roles are not remembered.

    The vector is the piece's own, the index text the original stretch, the source its span in the message.
    """
    found: list[EntryDraft] = []
    for sensed in segment.turns:
        if sensed.turn.role in _REMEMBERED:
            pieces = [piece for piece in sensed.pieces if piece.compressed.strip()]
            texts = dated_texts(sensed, pieces)
            found += [_draft(segment, sensed, *pair) for pair in zip(pieces, texts, strict=True)]
    return found


def dated_texts(sensed: SensedTurn, pieces: Sequence[Piece]) -> list[str]:
    """Each compressed piece with its relative dates resolved.

    Dates are found in the original, because compression may have dropped half of a phrase ("last" of "last year");
    the words of a phrase are kept in any case.
    """
    # Read in the whole turn, and once: what stands before a phrase decides about it.
    spans = date_spans(sensed.turn.text, sensed.turn.event_time)
    return [_dated(sensed, piece, spans) for piece in pieces]


def _dated(sensed: SensedTurn, piece: Piece, spans: Sequence[DateSpan]) -> str:
    inside = [
        DateSpan(span.start - piece.start, span.end - piece.start, span.replacement)
        for span in spans
        if piece.start <= span.start and span.end <= piece.end
    ]
    return merge(sensed.turn.text[piece.start : piece.end], piece.compressed, inside) if inside else piece.compressed


def merge(original: str, compressed: str, spans: Sequence[DateSpan]) -> str:
    """The compressed text with the date phrases of the original in their places, each with its replacement.

    If `compressed` is not made of words of `original` in their order, the phrases follow it.
    """
    tokens = list(_TOKEN.finditer(original))
    kept = _align(tokens, [match.group() for match in _TOKEN.finditer(compressed)])
    if kept is None:
        return "; ".join((compressed, *(span.replacement for span in spans)))
    covering = {i: span for i, token in enumerate(tokens) for span in spans if span.start <= token.start() < span.end}
    shown = sorted(kept | covering.keys())
    parts: list[str] = []
    for place, i in enumerate(shown):
        span = covering.get(i)
        if span is not None and tokens[i].start() > span.start:
            continue  # the phrase was written at its first token
        parts.append(_gap(original, tokens, shown[place - 1], i) if parts else "")
        parts.append(span.replacement if span is not None else tokens[i].group())
    return "".join(parts)


def _gap(original: str, tokens: Sequence[re.Match[str]], left: int, right: int) -> str:
    between = original[tokens[left].end() : tokens[right].start()]
    if right == left + 1:
        return between
    if "\n" in between:
        return "\n"
    closes = tokens[right].group()[0] in _CLOSING or tokens[left].group()[-1] in _OPENING
    return "" if closes else " "


def _align(tokens: Sequence[re.Match[str]], wanted: Sequence[str]) -> set[int] | None:
    """Places of the wanted words among the tokens, in order, with as many neighbours kept together as possible.

    None if they do not occur in that order. Words repeat ("the ... the"), and the neighbours tell which was meant.
    """
    if not wanted:
        return set()
    # best[i]: most joints of wanted[:w + 1] when its last word stands at token i; back[w][i]: where the one before is.
    best: Mapping[int, int] = {i: 0 for i, token in enumerate(tokens) if token.group() == wanted[0]}
    back: list[Mapping[int, int]] = []
    for word in wanted[1:]:
        best, origin = _extend(tokens, best, word)
        back.append(origin)
    if not best:
        return None
    at = max(best, key=lambda i: (best[i], -i))
    places = {at}
    for earlier in reversed(back):
        at = earlier[at]
        places.add(at)
    return places


def _extend(
    tokens: Sequence[re.Match[str]], best: Mapping[int, int], word: str
) -> tuple[dict[int, int], dict[int, int]]:
    extended: dict[int, int] = {}
    origin: dict[int, int] = {}
    behind = -1  # the best place before the current token
    for i, token in enumerate(tokens):
        if behind >= 0 and token.group() == word:
            joined = best.get(i - 1, -1) + 1
            extended[i] = max(joined, best[behind])
            origin[i] = i - 1 if joined > 0 and joined >= best[behind] else behind
        if i in best and (behind < 0 or best[i] > best[behind]):
            behind = i
    return extended, origin


def _draft(segment: Segment, sensed: SensedTurn, piece: Piece, text: str) -> EntryDraft:
    turn = sensed.turn
    return EntryDraft(
        kind="turn",
        text=f"{turn.speaker}: {text}",
        session=turn.session,
        speaker=turn.speaker,
        role=turn.role,
        event_time=turn.event_time,
        sources=(Source(turn.id, turn.seq, piece.start, piece.end),),
        vector=piece.vector,
        segment=segment.id,
        metadata=turn.metadata,
    )
