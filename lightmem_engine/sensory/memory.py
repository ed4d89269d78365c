"""Sensory memory: new turns in, compressed, embedded and related to their predecessors out.

Two calls to the models serve any number of sessions: one classifier pass over all windows and one embedding of all
pieces, so that batches cross users.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lightmem_engine.config_sensory import CompressConfig
from lightmem_engine.sensory.compress import compress
from lightmem_engine.sensory.pieces import split
from lightmem_engine.sensory.windows import Count, Cut, Cutter, Session
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Piece, SensedTurn, Turn, Vector, Vectors, Window, WindowScores, Word

Classify = Callable[[Sequence[Window]], Awaitable[Sequence[WindowScores]]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
Shorten = Callable[[Sequence[str]], Awaitable[Sequence[str]]]

SPECIAL_TOKENS = 2  # that a model adds around a window
CONTEXT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class SensoryJob:
    """New turns of one session, in order.

    context: texts of the turns before them, oldest first; the last `SensoryMemory.context_turns` are enough.
    document_frequency, num_documents: the user's term counts, as in `Window`.
    user_context: like `context`, of user turns only; read where attention goes from user turn to user turn.
    """

    turns: Sequence[Turn]
    context: Sequence[str] = ()
    document_frequency: Mapping[str, int] = field(default_factory=dict)
    num_documents: int = 0
    user_context: Sequence[str] = ()


@dataclass(slots=True)
class _Draft:
    """A job on its way. Per turn: its pieces, its words, its attention to its predecessor; and by (turn, start of a
    piece) the window that read it."""

    job: SensoryJob
    pieces: list[list[tuple[int, int]]]
    words: list[list[Word]]
    attention: list[float]
    mass: list[float]
    window_of: dict[tuple[int, int], int] = field(default_factory=dict)

    def session(self, users_only: bool) -> tuple[Session, list[int]]:
        """What there is to read, and which turns it is."""
        turns = [i for i, turn in enumerate(self.job.turns) if not users_only or turn.role == "user"]
        before = self.job.user_context if users_only else self.job.context
        texts = [self.job.turns[i].text for i in turns]
        # Attention between user texts is read off the beginning of each, as much as one window holds.
        spans = [self.pieces[i][:1] if users_only else self.pieces[i] for i in turns]
        return Session(texts, spans, before), turns


class SensoryMemory:
    """The sensory stage. Holds no state between calls; what a session said before comes with the job.

    context_turns: how many earlier turns a job should bring.
    """

    def __init__(
        self,
        *,
        classify: Classify,
        embed: Embed,
        count: Count,
        window_tokens: int,
        compress: CompressConfig,
        max_words: int,
        attend: Literal["turns", "users"] = "turns",
        shorten: Shorten | None = None,
    ) -> None:
        """classify, embed: the models; each is called once for all jobs.   count: the classifier's tokens per text.

        window_tokens: longest window, special tokens included.   max_words: longest piece.
        attend: `turns` relates each turn to the one before it; `users` relates each user turn to the user turn before
            it, in a second set of windows that hold user turns only (the published segmentation needs that).
        shorten: compresses each piece by itself; without it the words that `classify` scored are chosen per window.
        """
        self._classify, self._embed = classify, embed
        self._compress = compress
        self._shorten = shorten if compress.rate < 1 else None
        self._max_words = max_words
        self._attend = attend
        self.context_turns = 1 if attend == "turns" else 64
        room = window_tokens - SPECIAL_TOKENS
        near = min(CONTEXT_TOKENS, room // 4)
        self._turns = Cutter(count, max_tokens=room, context_texts=1, context_tokens=near)
        self._users = Cutter(count, max_tokens=room, context_texts=64, context_tokens=room // 2)

    async def sense(self, jobs: Sequence[SensoryJob]) -> list[list[SensedTurn]]:
        """One list per job, one item per turn. A model's failure reaches the caller; nothing is kept of the call."""
        drafts = [self._draft(job) for job in jobs]
        cuts, turns = self._cuts(drafts, users_only=False)
        extra, users = self._cuts(drafts, users_only=True) if self._attend == "users" else ([], [])
        windows = [_window(drafts[cut.session], turns, cut) for cut in cuts]
        windows += [_window(drafts[cut.session], users, cut) for cut in extra]
        scores = list(await self._classify(windows)) if windows else []
        for number, (cut, scored) in enumerate(zip(cuts, scores, strict=False)):
            _take_words(drafts[cut.session], cut, number, scored)
        related = zip(extra, scores[len(cuts) :], strict=True) if extra else zip(cuts, scores, strict=True)
        which = users if extra else turns
        for cut, scored in related:
            _take_attention(drafts[cut.session], which[cut.session][1], cut, scored)
        spoken = [text for draft in drafts for text in _spoken(draft)]
        vectors = iter(await self._embed(spoken) if spoken else ())
        short = await self._shortened(drafts)
        return [self._sensed(draft, own, vectors) for draft, own in zip(drafts, short, strict=True)]

    def _draft(self, job: SensoryJob) -> _Draft:
        n = len(job.turns)
        pieces = [split(turn.text, self._max_words) for turn in job.turns]
        return _Draft(job, pieces, [[] for _ in range(n)], [math.nan] * n, [math.nan] * n)

    def _cuts(self, drafts: Sequence[_Draft], users_only: bool) -> tuple[list[Cut], list[tuple[Session, list[int]]]]:
        sessions = [draft.session(users_only) for draft in drafts]
        cutter = self._users if users_only else self._turns
        return cutter.cut([session for session, _ in sessions]), sessions

    async def _shortened(self, drafts: Sequence[_Draft]) -> list[dict[tuple[int, int], str]]:
        """Per job, every piece's short form by (turn, start)."""
        if self._shorten is None:
            return [self._compressed(draft) for draft in drafts]
        texts = [text for draft in drafts for _, _, text in _pieces(draft)]
        found = iter(await self._shorten(texts) if texts else ())
        return [{(t, start): next(found) for t, start, _ in _pieces(draft)} for draft in drafts]

    def _sensed(self, draft: _Draft, short: dict[tuple[int, int], str], vectors: Iterator[Vector]) -> list[SensedTurn]:
        sensed = []
        for t, turn in enumerate(draft.job.turns):
            pieces = tuple(Piece(start, end, short[t, start], next(vectors)) for start, end in draft.pieces[t])
            sensed.append(
                SensedTurn(
                    turn=turn,
                    pieces=pieces,
                    vector=_direction(pieces),
                    attention=draft.attention[t],
                    mass=draft.mass[t],
                    num_tokens=sum(num_tokens(piece.compressed) for piece in pieces),
                )
            )
        return sensed

    def _compressed(self, draft: _Draft) -> dict[tuple[int, int], str]:
        """Every piece's short form by (turn, start); the pieces of one window share one budget of words."""
        turns = draft.job.turns
        names = {word for turn in turns if turn.speaker != turn.role for word in turn.speaker.split()}
        together: dict[int, list[tuple[int, int, int, list[Word]]]] = {}
        for t, pieces in enumerate(draft.pieces):
            for (start, end), own in zip(pieces, _words_of(pieces, draft.words[t]), strict=True):
                together.setdefault(draft.window_of[t, start], []).append((t, start, end, own))
        found = {}
        for group in together.values():
            short = compress(
                [turns[t].text[start:end] for t, start, end, _ in group],
                [own for *_, own in group],
                rate=self._compress.rate,
                protect=self._compress.protect,
                whole_words=self._compress.whole_words,
                names=names,
            )
            found.update({(t, start): text for (t, start, _, _), text in zip(group, short, strict=True)})
        return found


def spoken(speaker: str, text: str) -> str:
    """How a text is written for the embedder: who says it is part of it. Queries are embedded as they are."""
    return f"{speaker} said, {text}"


def _pieces(draft: _Draft) -> Iterator[tuple[int, int, str]]:
    """(turn, start, text) of every piece."""
    for t, (turn, pieces) in enumerate(zip(draft.job.turns, draft.pieces, strict=True)):
        for start, end in pieces:
            yield t, start, turn.text[start:end]


def _spoken(draft: _Draft) -> Iterator[str]:
    for t, _, text in _pieces(draft):
        yield spoken(draft.job.turns[t].speaker, text)


def _window(draft: _Draft, sessions: Sequence[tuple[Session, list[int]]], cut: Cut) -> Window:
    texts = sessions[cut.session][0].texts
    own = (texts[stretch.text][stretch.start : stretch.end] for stretch in cut.stretches)
    job = draft.job
    return Window((*cut.context, *own), len(cut.context), job.document_frequency, job.num_documents)


def _take_words(draft: _Draft, cut: Cut, number: int, scored: WindowScores) -> None:
    for stretch, words in zip(cut.stretches, scored.words[len(cut.context) :], strict=True):
        turn, at = stretch.text, stretch.start
        draft.words[turn] += [Word(start + at, end + at, keep) for start, end, keep in words] if at else words
        inside = (start for start, _ in draft.pieces[turn] if at <= start < stretch.end)
        draft.window_of.update({(turn, start): number for start in inside})


def _take_attention(draft: _Draft, turns: Sequence[int], cut: Cut, scored: WindowScores) -> None:
    for place, stretch in enumerate(cut.stretches, start=len(cut.context)):
        turn = turns[stretch.text]
        if stretch.start == draft.pieces[turn][0][0]:
            draft.attention[turn] = float(scored.attention[place])
            draft.mass[turn] = float(scored.mass[place])


def _words_of(pieces: Sequence[tuple[int, int]], words: Sequence[Word]) -> Iterator[list[Word]]:
    """Each piece's words, placed within it; a word that crosses a border is in both, as far as it reaches."""
    at = 0
    for start, end in pieces:
        while at < len(words) and words[at].end <= start:
            at += 1
        own = []
        for word in itertools.islice(words, at, None):
            if word.start >= end:
                break
            own.append(Word(max(word.start, start) - start, min(word.end, end) - start, word.keep))
        yield own


def _direction(pieces: Sequence[Piece]) -> Vector:
    """The normalised mean of the pieces' vectors; the first one where they cancel out."""
    mean = np.mean([piece.vector for piece in pieces], axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length, np.float32) if length > 1e-6 else pieces[0].vector
