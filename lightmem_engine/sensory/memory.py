"""Sensory memory: new turns in, compressed, embedded and related to their predecessors out.

Two calls to the models serve any number of sessions: one classifier pass over all windows and one embedding of all
stretches, so that batches cross users.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightmem_engine.config import CompressConfig
from lightmem_engine.sensory.compress import compress
from lightmem_engine.sensory.pieces import split
from lightmem_engine.sensory.windows import Plan, Stretch, context_of, plan, tails, window
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Piece, SensedTurn, Turn, Vector, Vectors, Window, WindowScores, Word

Classify = Callable[[Sequence[Window]], Awaitable[Sequence[WindowScores]]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
Count = Callable[[Sequence[str]], Sequence[int]]

TEMPLATE = "{speaker} said, {text}"


@dataclass(frozen=True, slots=True)
class SensoryJob:
    """New turns of one session, in order.

    context: texts of the turns before them, oldest first; the last few are enough.
    document_frequency, num_documents: the user's term counts, as in `Window`.
    """

    turns: Sequence[Turn]
    context: Sequence[str] = ()
    document_frequency: Mapping[str, int] = field(default_factory=dict)
    num_documents: int = 0


@dataclass(slots=True)
class _Draft:
    """A job on its way: per turn its stretches, its words and its attention to the previous turn."""

    job: SensoryJob
    texts: list[str]
    pieces: list[list[tuple[int, int]]]
    words: list[list[Word]]
    attention: list[float]
    mass: list[float]


class SensoryMemory:
    """The sensory stage. Holds no state between calls; what a session said before comes with the job."""

    def __init__(
        self,
        *,
        classify: Classify,
        embed: Embed,
        count: Count,
        window_tokens: int,
        compress: CompressConfig,
        max_words: int,
        context_texts: int = 1,
        context_tokens: int = 64,
    ) -> None:
        """classify, embed: the models, called once a batch each.   count: the classifier's tokens of each text.

        window_tokens: tokens of one window with its context, without special tokens.   max_words: longest piece.
        context_texts, context_tokens: how much of what was said before a window is read along.
        """
        self._classify, self._embed, self._count = classify, embed, count
        self._compress = compress
        self._max_words = max_words
        self._context_texts = context_texts
        self._context_tokens = min(context_tokens, window_tokens // 4)
        self._budget = window_tokens - self._context_tokens

    async def sense(self, jobs: Sequence[SensoryJob]) -> list[list[SensedTurn]]:
        """One list per job, one item per turn. A model's failure reaches the caller; nothing is kept of the call."""
        drafts = [self._draft(job) for job in jobs]
        plans = self._plans(drafts)
        windows = self._windows(plans)
        if windows:
            scores = await self._classify(windows)
            for (draft, planned), given, scored in zip(plans, windows, scores, strict=True):
                _take(draft, planned, given.num_context, scored)
        spoken = [
            TEMPLATE.format(speaker=turn.speaker, text=turn.text[start:end])
            for draft in drafts
            for turn, pieces in zip(draft.job.turns, draft.pieces, strict=True)
            for start, end in pieces
        ]
        vectors = iter(await self._embed(spoken) if spoken else ())
        return [self._sensed(draft, vectors) for draft in drafts]

    def _draft(self, job: SensoryJob) -> _Draft:
        texts = [turn.text for turn in job.turns]
        n = len(texts)
        pieces = [split(text, self._max_words) for text in texts]
        return _Draft(job, texts, pieces, [[] for _ in texts], [float("nan")] * n, [float("nan")] * n)

    def _plans(self, drafts: Sequence[_Draft]) -> list[tuple[_Draft, Plan]]:
        spans = [[(t, a, b) for t, pieces in enumerate(d.pieces) for a, b in pieces] for d in drafts]
        counts = iter(self._count([d.texts[t][a:b] for d, own in zip(drafts, spans, strict=True) for t, a, b in own]))
        found: list[tuple[_Draft, Plan]] = []
        for draft, own in zip(drafts, spans, strict=True):
            stretches = [s for t, a, b in own for s in self._fitting(draft.texts[t], Stretch(t, a, b, next(counts)))]
            found += [(draft, planned) for planned in plan(stretches, self._budget)]
        return found

    def _fitting(self, text: str, stretch: Stretch) -> Iterator[Stretch]:
        """The stretch, or the halves of it that fit a window: some runs of characters have a token each."""
        if stretch.num_tokens <= self._budget or stretch.end - stretch.start < 2:
            yield stretch
            return
        middle = (stretch.start + stretch.end) // 2
        for start, end in ((stretch.start, middle), (middle, stretch.end)):
            yield from self._fitting(text, Stretch(stretch.turn, start, end, self._count([text[start:end]])[0]))

    def _windows(self, plans: Sequence[tuple[_Draft, Plan]]) -> list[Window]:
        contexts = self._contexts([context_of(p, d.texts, d.job.context, self._context_texts) for d, p in plans])
        return [
            window(planned, draft.texts, context, draft.job.document_frequency, draft.job.num_documents)
            for (draft, planned), context in zip(plans, contexts, strict=True)
        ]

    def _contexts(self, contexts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Each cut from the left until it has at most the tokens allowed."""
        room = self._context_tokens
        current = [tuple(text[-room * 24 :] for text in context) for context in contexts]
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

    def _sensed(self, draft: _Draft, vectors: Iterator[Vector]) -> list[SensedTurn]:
        turns = draft.job.turns
        names = {word for turn in turns if turn.speaker != turn.role for word in turn.speaker.split()}
        sensed = []
        for t, turn in enumerate(turns):
            words = _words_of(draft.pieces[t], draft.words[t])
            pieces = tuple(
                Piece(start, end, self._short(turn.text[start:end], own, names), next(vectors))
                for (start, end), own in zip(draft.pieces[t], words, strict=True)
            )
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

    def _short(self, text: str, words: Sequence[Word], names: set[str]) -> str:
        return compress(text, words, rate=self._compress.rate, protect=self._compress.protect, names=names)


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


def _take(draft: _Draft, planned: Plan, num_context: int, scored: WindowScores) -> None:
    for i, stretch in enumerate(planned.stretches):
        place = num_context + i
        draft.words[stretch.turn] += [
            Word(word.start + stretch.start, word.end + stretch.start, word.keep) for word in scored.words[place]
        ]
        begins = not draft.texts[stretch.turn][: stretch.start].strip()
        if begins:
            draft.attention[stretch.turn] = float(scored.attention[place])
            draft.mass[stretch.turn] = float(scored.mass[place])


def _direction(pieces: Sequence[Piece]) -> Vector:
    """The normalised mean of the pieces' vectors; the first one where they cancel out."""
    mean = np.mean([piece.vector for piece in pieces], axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length, np.float32) if length > 1e-6 else pieces[0].vector
