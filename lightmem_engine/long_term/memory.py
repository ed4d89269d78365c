"""Long-term memory as search sees it: catch up with the feed, rank, hydrate, cut to the budget."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import InvalidInput
from lightmem_engine.long_term.filters import Filter, compile_filter
from lightmem_engine.long_term.query import Question, read
from lightmem_engine.long_term.rank import Mask, Strategy, fuse, order
from lightmem_engine.protocols import Clock, Feed, SearchIndex
from lightmem_engine.text import num_tokens
from lightmem_engine.types import STATES, Columns, Hit, IndexDoc, Scope, Vector, Vectors

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
Render = Callable[[Hit], str]
T = TypeVar("T")

MAX_QUERY_CHARS = 32_000
MAX_TOP_K = 1000

_CURRENT = [STATES.index("pending"), STATES.index("active")]
_ENDED = [STATES.index("superseded"), STATES.index("expired")]
_NEVER = np.iinfo(np.int64).max
_SPARE = 16  # candidates beyond top_k, for what was deleted since the index last looked
_MAX_ROUNDS = 4
_INLINE_DOCS = 32  # fewer changes than these are applied on the event loop itself
_INLINE_SEARCH = 2000  # smaller memories are searched on the event loop itself


def reader_line(hit: Hit) -> str:
    """A memory as a reader gets it: the day, then the text."""
    return f"[{hit.event_time.day} {hit.event_time:%B %Y}] {hit.text}"


@dataclasses.dataclass(slots=True)
class _User:
    """The cached index of one user."""

    index: SearchIndex
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    intact: bool = True  # false while changes are half applied


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """A validated search, apart from whose it is."""

    query: str
    top_k: int
    max_tokens: int | None
    as_of: datetime | None
    filter: Filter | None
    strategy: Strategy


class LongTermMemory:
    """Search over the memories of all users. The indexes are caches of the feed and may be dropped at any time.

    feed: the durable store.   make_index: an empty index.   embed: texts to unit vectors, float32 [n, dim].
    render: the exact line a reader gets for a hit; token budgets are counted on it.
    """

    def __init__(
        self,
        feed: Feed,
        make_index: Callable[[], SearchIndex],
        embed: Embed,
        config: EngineConfig,
        clock: Clock,
        render: Render = reader_line,
    ) -> None:
        self._feed = feed
        self._make_index = make_index
        self._embed = embed
        self._config = config
        self._clock = clock
        self._render = render
        self._users: OrderedDict[Scope, _User] = OrderedDict()

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
        request = _Request(
            _checked_query(query),
            _checked_count("top_k", top_k, MAX_TOP_K),
            None if max_tokens is None else _checked_count("max_tokens", max_tokens, 1 << 30),
            _checked_moment(as_of),
            compile_filter(filters) if filters else None,
            strategy or self._config.search.index_strategy,
        )
        user = self._user(scope)
        await self._catch_up(scope, user)
        if not len(user.index):
            return []
        question = read(request.query, list(user.index.columns().speakers))
        vector = None if request.strategy == "context" else (await self._embed([question.bare]))[0]
        limit = 2 * request.top_k + _SPARE
        for _ in range(_MAX_ROUNDS):
            ranked, is_all = await self._rank(user, request, question, vector, limit)
            hits = await self._hydrate(scope, request, ranked)
            if is_all or len(hits) == request.top_k:
                break
            await self._catch_up(scope, user)
            limit *= 4
        return hits if request.max_tokens is None else self._within(hits, request.max_tokens)

    def forget(self, scope: Scope) -> None:
        """Drop the cached index of a user; the next search builds it anew from the feed."""
        self._users.pop(scope, None)

    def _user(self, scope: Scope) -> _User:
        user = self._users.get(scope)
        if user is None:
            user = self._users[scope] = _User(self._make_index())
        self._users.move_to_end(scope)
        while len(self._users) > self._config.runtime.cached_users:
            self._users.popitem(last=False)
        return user

    async def _catch_up(self, scope: Scope, user: _User) -> None:
        async with user.lock:
            if not user.intact:
                user.index, user.intact = self._make_index(), True
            docs, seq = await self._feed.changes(scope, user.index.applied_seq)
            if docs:
                user.intact = False
                await _run(lambda: user.index.apply(docs, seq), inline=_is_small(docs))
                user.intact = True

    async def _rank(
        self, user: _User, request: _Request, question: Question, vector: Vector | None, limit: int
    ) -> tuple[list[tuple[str, float]], bool]:
        """(ref, score) of the best candidates, each ref once, and whether these are all there are."""
        now = self._clock.now()

        def rank() -> tuple[list[tuple[str, float]], bool]:
            columns = user.index.columns()
            eligible = eligible_at(columns, now, request.as_of)
            if request.filter is not None:
                eligible &= request.filter(columns)
            scores = _scores(user.index, columns, question, vector, request.strategy)
            slots = order(scores, eligible, limit)
            best: dict[str, float] = {}
            for slot in slots.tolist():
                best.setdefault(columns.refs[slot], float(scores[slot]))
            return list(best.items()), len(slots) < limit

        async with user.lock:
            return await _run(rank, inline=len(user.index) <= _INLINE_SEARCH)

    async def _hydrate(self, scope: Scope, request: _Request, ranked: Sequence[tuple[str, float]]) -> list[Hit]:
        """The first `top_k` candidates that still exist, as they read now."""
        hits: list[Hit] = []
        for i in range(0, len(ranked), request.top_k + _SPARE):
            if len(hits) == request.top_k:
                break
            some = ranked[i : i + request.top_k + _SPARE]
            found = await self._feed.hydrate(scope, [ref for ref, _ in some])
            for ref, score in some:
                hit = found.get(ref)
                is_current = hit is not None and (request.as_of is not None or hit.state in ("pending", "active"))
                if hit is not None and is_current and len(hits) < request.top_k:
                    hits.append(dataclasses.replace(hit, score=score))
        return hits

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


def eligible_at(columns: Columns, now: datetime, as_of: datetime | None) -> Mask:
    """bool [slots]; what may be recalled: pending and active entries that hold now, or all that held at `as_of`.

    A superseded or expired entry held until its `valid_to`; one without a `valid_to` was withdrawn, and never held.
    """
    moment = round((as_of or now).timestamp() * 1000)
    current = np.isin(columns.state, _CURRENT)
    if as_of is None:
        return np.asarray(columns.live & current & (columns.valid_to > moment), np.bool_)
    ended = np.isin(columns.state, _ENDED) & (columns.valid_to != _NEVER)
    held = (columns.event_time <= moment) & (columns.valid_to > moment)
    return np.asarray(columns.live & (current | ended) & held, np.bool_)


def _scores(index: SearchIndex, columns: Columns, question: Question, vector: Vector | None, strategy: Strategy) -> Any:
    cosine = None if vector is None else index.cosine(vector)
    needs_words = strategy != "embedding" or (cosine is not None and bool(np.isnan(cosine[columns.live]).any()))
    lexical = index.lexical(question.terms) if needs_words else None
    return fuse(question, columns, lexical, cosine, strategy)


def _is_small(docs: Sequence[IndexDoc]) -> bool:
    return len(docs) <= _INLINE_DOCS and sum(len(doc.text) for doc in docs) <= _INLINE_DOCS * 1000


async def _run(work: Callable[[], T], *, inline: bool) -> T:
    """Do CPU work, in a thread unless it is small. A cancelled caller still waits for the thread to leave, because
    it holds the lock of what the thread works on."""
    if inline:
        return work()
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        task.exception()  # seen, so that nobody reports it as lost
        raise


def _checked_query(query: str) -> str:
    if not isinstance(query, str) or not query.strip():
        raise InvalidInput("query must be a non-empty string")
    if len(query) > MAX_QUERY_CHARS:
        raise InvalidInput(f"query has {len(query)} characters, more than {MAX_QUERY_CHARS}")
    return query


def _checked_count(name: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidInput(f"{name} must be a whole number from 1 to {most}, not {value!r}")
    return value


def _checked_moment(as_of: datetime | None) -> datetime | None:
    if as_of is not None and (not isinstance(as_of, datetime) or as_of.tzinfo is None):
        raise InvalidInput("as_of must be a datetime with a time zone")
    return as_of
