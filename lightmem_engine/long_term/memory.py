"""Long-term memory as search sees it: catch up with the feed, rank, hydrate, cut to the budget."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError, Overloaded
from lightmem_engine.long_term.offload import run
from lightmem_engine.long_term.query import Question, read
from lightmem_engine.long_term.rank import (
    DEFAULT_WEIGHTS,
    Strategy,
    Weights,
    age_term,
    eligible_at,
    fuse,
    has,
    needs_vector,
    order,
)
from lightmem_engine.long_term.request import Request, checked
from lightmem_engine.long_term.state import Signals, User, is_small, take_in, worded
from lightmem_engine.protocols import Clock, Feed, SearchIndex
from lightmem_engine.runtime.late import LateWork
from lightmem_engine.text import forget_words, num_tokens
from lightmem_engine.types import Columns, Floats, Hit, Scope, Vector, Vectors

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
Render = Callable[[Hit], str]
Spoken = Callable[[str, str], str]

_SPARE = 16  # candidates beyond top_k, for what was deleted since the index last looked
_MAX_ROUNDS = 4
_Ranked = tuple[str, float]  # ref and score
_INLINE_SEARCH = 2000  # smaller memories are searched on the event loop itself


def reader_line(hit: Hit) -> str:
    """A memory as a reader gets it: the day, then the text."""
    return f"[{hit.event_time.day} {hit.event_time:%B %Y}] {hit.text}"


class LongTermMemory:
    """Search over the memories of all users. The indexes are caches of the feed and may be dropped at any time.

    feed: the durable store.   make_index: an empty index.   embed: texts to unit vectors, float32 [n, dim].
    render: the exact line a reader gets for a hit; token budgets are counted on it.   weights: of the ranking.
    spoken: (speaker, text) as the feed's vectors were made of it; None embeds texts as they are.
    """

    def __init__(
        self,
        feed: Feed,
        make_index: Callable[[], SearchIndex],
        embed: Embed,
        config: EngineConfig,
        clock: Clock,
        render: Render = reader_line,
        weights: Weights = DEFAULT_WEIGHTS,
        spoken: Spoken | None = None,
    ) -> None:
        self._feed = feed
        self._make_index = make_index
        self._embed = embed
        self._config = config
        self._clock = clock
        self._render = render
        self._weights = weights
        self._spoken = spoken or (lambda speaker, text: text)
        self._users: OrderedDict[Scope, User] = OrderedDict()
        self._late = LateWork()

    def __len__(self) -> int:
        """Users whose index is in memory."""
        return len(self._users)

    async def search(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int = 10,
        max_tokens: int | None = None,
        as_of: datetime | None = None,
        filters: Mapping[str, Any] | None = None,
        strategy: Strategy | None = None,
    ) -> list[Hit]:
        """The best memories for a question, best first, with scores that compare within one answer only.

        max_tokens: budget for the rendered lines; whole entries in rank order until the next would not fit, and an
            entry larger than the whole budget is passed over.
        as_of: what was valid at that moment (event time), superseded since or not; aware, or `InvalidInput`.
        strategy: instead of the configured `search.index_strategy`.
        """
        strategy = strategy or self._config.search.index_strategy
        return (await self._search(scope, checked(query, top_k, max_tokens, as_of, filters, strategy), None))[0]

    async def recall(
        self, scope: Scope, query: str, *, top_k: int, filters: Mapping[str, Any] | None, patience: float
    ) -> tuple[list[Hit], bool]:
        """As `search`, for somebody in a hurry: an embedding that fails, or takes more than `patience` seconds, is
        given up. Also says whether meaning had a part in the answer, or words alone."""
        strategy = self._config.search.index_strategy
        return await self._search(scope, checked(query, top_k, None, None, filters, strategy), patience)

    async def _search(self, scope: Scope, request: Request, patience: float | None) -> tuple[list[Hit], bool]:
        user = self._user(scope)
        # Somebody in a hurry may go away, but what he began of a large index is there for the next one.
        await (self._catch_up(scope, user) if patience is None else self._late.kept(self._catch_up(scope, user)))
        if not len(user.index):
            return [], True
        question = read(request.query, list(user.index.columns().speakers))
        signals = await self._signals(user, request, question, patience)
        limit = 2 * request.top_k + _SPARE
        for _ in range(_MAX_ROUNDS):
            ranked, is_all = await self._rank(user, request, question, signals, limit)
            hits, has_gone = await self._hydrate(scope, request, ranked)
            is_enough = is_all or len(hits) == request.top_k
            if is_enough and not has_gone:
                break
            # What has gone may be there under another name: a pending message has become an entry.
            before = user.index.applied_seq
            await self._catch_up(scope, user)
            if is_enough and user.index.applied_seq == before:
                break
            limit *= 1 if is_enough else 4
        is_complete = signals.vector is not None or not needs_vector(request.strategy)
        return hits if request.max_tokens is None else self._within(hits, request.max_tokens), is_complete

    async def aclose(self) -> None:
        """Wait for what goes on without a caller."""
        await self._late.aclose()

    def forget(self, scope: Scope) -> None:
        """Drop the cached index of a user; the next search builds it anew from the feed. Searches under way finish on
        the old index and find only what the feed still hydrates."""
        self._users.pop(scope, None)
        forget_words()

    def _user(self, scope: Scope) -> User:
        user = self._users.get(scope)
        if user is None:
            user = self._users[scope] = User(self._make_index())
        self._users.move_to_end(scope)
        while len(self._users) > self._config.runtime.cached_users:
            self._users.popitem(last=False)
        return user

    async def _catch_up(self, scope: Scope, user: User) -> None:
        async with user.lock:
            if not user.intact:
                user.index, user.intact = self._make_index(), True
            docs, seq = await self._feed.changes(scope, user.index.applied_seq)
            if docs:
                user.intact = False
                await run(lambda: take_in(user.index, docs, seq), inline=is_small(docs))
                user.intact = True

    async def _signals(self, user: User, request: Request, question: Question, patience: float | None) -> Signals:
        """Embed the question; in a large memory look up its words meanwhile."""
        if not needs_vector(request.strategy):
            return Signals(None)
        if not has(request.strategy, "context") or len(user.index) <= _INLINE_SEARCH:
            return Signals(await self._vector_in_time(user, question, patience))

        async def look_up() -> Signals:
            async with user.lock:
                index = user.index
                found = await run(lambda: index.lexical(question.terms), inline=False)
                return Signals(None, found, index, index.applied_seq)

        words = asyncio.ensure_future(look_up())
        try:
            vector = await self._vector_in_time(user, question, patience)
        finally:
            found = await words
        return dataclasses.replace(found, vector=vector)

    async def _vector_in_time(self, user: User, question: Question, patience: float | None) -> Vector | None:
        if patience is None:
            return await self._question_vector(user, question)
        try:
            return await asyncio.wait_for(self._question_vector(user, question), patience)
        except (TimeoutError, BackendUnavailable, ModelError, Overloaded):
            return None

    async def _question_vector(self, user: User, question: Question) -> Vector:
        """Embed the question; in the same pass the newest documents that have no vector yet, so that what was said a
        moment ago is compared with the rest by the same measure."""
        index = user.index
        async with user.lock:
            waiting = index.waiting()
        texts = [self._spoken(doc.speaker, doc.text) for doc in waiting]
        rows: Vectors | None
        try:
            rows = await self._embed([question.bare, *texts])
        except (ModelError, InvalidInput):
            if not waiting:
                raise
            rows = None  # one of them may be poison, and the question is not to suffer for it
        if waiting:
            async with user.lock:
                index.lend(waiting, None if rows is None else rows[1:])
        if rows is None:
            rows = await self._embed([question.bare])
        vector: Vector = rows[0]
        return vector

    async def _rank(
        self, user: User, request: Request, question: Question, signals: Signals, limit: int
    ) -> tuple[list[tuple[str, float]], bool]:
        """(ref, score) of the best candidates, each ref once, and whether these are all there are."""
        now = self._clock.now()

        # Without the question's vector, words decide.
        strategy = request.strategy if signals.vector is not None else worded(request.strategy)

        half_life = self._config.search.half_life_days

        def rank() -> tuple[list[tuple[str, float]], bool]:
            columns = user.index.columns()
            eligible = eligible_at(columns, now, request.as_of)
            if request.filter is not None:
                eligible &= request.filter(columns)
            scores = self._scores(user.index, columns, question, signals, strategy)
            if half_life:
                scores = scores + age_term(columns.event_time, request.as_of or now, half_life)
            slots = order(scores, eligible, limit)
            best: dict[str, float] = {}
            for slot in slots.tolist():
                shown = columns.heirs[slot] if request.as_of is None else ""
                best.setdefault(shown or columns.refs[slot], float(scores[slot]))
            return list(best.items()), len(slots) < limit

        async with user.lock:
            return await run(rank, inline=len(user.index) <= _INLINE_SEARCH)

    def _scores(
        self, index: SearchIndex, columns: Columns, question: Question, signals: Signals, strategy: Strategy
    ) -> Floats:
        cosine = None if signals.vector is None else index.cosine(signals.vector)
        lexical = signals.lexical
        if lexical is None or signals.index is not index or signals.seq != index.applied_seq:
            needs_words = has(strategy, "context") or (
                cosine is not None and bool(np.isnan(cosine[columns.live]).any())
            )
            lexical = index.lexical(question.terms) if needs_words else None
        walk = index.graph(question.words, far=question.asks_link) if has(strategy, "graph") else None
        return fuse(question, columns, lexical, cosine, strategy, self._weights, walk)

    async def _hydrate(self, scope: Scope, request: Request, ranked: Sequence[_Ranked]) -> tuple[list[Hit], bool]:
        """The first `top_k` candidates that still exist, as they read now; and whether one before them has gone."""
        hits, has_gone = list[Hit](), False
        for i in range(0, len(ranked), request.top_k + _SPARE):
            if len(hits) == request.top_k:
                break
            some = ranked[i : i + request.top_k + _SPARE]
            found = await self._feed.hydrate(scope, [ref for ref, _ in some])
            for ref, score in some:
                if len(hits) == request.top_k:
                    break
                hit = found.get(ref)
                has_gone |= hit is None
                is_current = hit is not None and (request.as_of is not None or hit.state in ("pending", "active"))
                if hit is not None and is_current:
                    hits.append(dataclasses.replace(hit, score=score))
        return hits, has_gone

    def _within(self, hits: Sequence[Hit], max_tokens: int) -> list[Hit]:
        kept, left = [], max_tokens
        for hit in hits:
            cost = num_tokens(self._render(hit))
            if cost > max_tokens:
                continue
            if cost > left:
                break
            kept.append(hit)
            left -= cost
        return kept
