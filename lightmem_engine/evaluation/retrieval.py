"""Replay a dataset as its users would, and measure what comes back. No judge, no model of its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lightmem_engine.evaluation.datasets import BEAM_FACTS, Conversation, Dataset, Question
from lightmem_engine.evaluation.metrics import (
    answer_contained,
    answer_recall,
    evidence_recall,
    idf_table,
    is_credited,
    mean,
    within_budget,
)
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Hit, Message

KS = (5, 10, 20)
_SHORTEST_LINE = 6  # tokens of a date in brackets and one word: no budget holds more lines than it has of these
_MAX_TOP_K = 1000

Progress = Callable[[int, int], None]


class Replayable(Protocol):
    """The part of `AsyncMemory` that a replay needs."""

    async def add(
        self, messages: Sequence[Message], *, user_id: str, session_id: str | None = None, timestamp: Any = None
    ) -> Any:
        """Remember messages of one session; `timestamp` is when they were said."""
        ...

    async def flush(self, *, user_id: str | None = None) -> Any:
        """Return when everything added has become memory."""
        ...

    async def search(
        self, query: str, *, user_id: str, top_k: int = 10, max_tokens: int | None = None
    ) -> Sequence[Hit]:
        """Memories, best first."""
        ...


@dataclass(slots=True)
class Timing:
    """Seconds spent, and what was fed."""

    messages: int = 0
    raw_tokens: int = 0
    add: float = 0.0
    flush: float = 0.0
    searches: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Judgement:
    """All figures of one question."""

    category: str
    main: dict[str, float]
    credited: dict[str, float]


async def evaluate(
    memory: Replayable,
    dataset: Dataset,
    *,
    render: Callable[[Hit], str],
    usage: Callable[[], Awaitable[Mapping[str, float]]] | None = None,
    everything: Callable[[str], Awaitable[Sequence[str]]] | None = None,
    progress: Progress | None = None,
    user_prefix: str = "eval",
    each: Callable[[str, Mapping[str, float]], None] | None = None,
) -> dict[str, Any]:
    """{"main", "credited", "by_category", "cost"} of a dataset; see `metrics` for the definitions.

    render: the exact line a reader gets; budgets are counted on it.
    usage: counters of the engine (calls, tokens), read before and after; the differences join `cost`.
    everything: all lines of a user's memory; with it `cost` has the size and the retention of the whole memory.
    each: gets the category and the `main` figures of every question asked, in order.
    Questions without evidence are not asked. Every conversation is its own user, whose memory must be empty.
    """
    before = dict(await usage()) if usage else {}
    judged: list[_Judgement] = []
    timing, whole = Timing(), _Whole()
    started = time.perf_counter()
    for i, conversation in enumerate(dataset.conversations):
        user = f"{user_prefix}-{dataset.name}-{conversation.id}"
        await replay(memory, conversation, user, timing)
        if everything is not None:
            whole.add(conversation, dataset.headline, await everything(user))
        judge = _Judge(conversation, dataset, render)
        for question in conversation.questions:
            if question.gold:
                asked = time.perf_counter()
                hits = await memory.search(question.text, user_id=user, top_k=judge.top_k)
                timing.searches.append(time.perf_counter() - asked)
                judged.append(judge(question, hits))
                if each is not None:
                    each(question.category, judged[-1].main)
        if progress is not None:
            progress(i + 1, len(dataset.conversations))
    after = dict(await usage()) if usage else {}
    cost = _cost(timing, len(dataset.conversations), time.perf_counter() - started)
    cost |= {key: value - before.get(key, 0) for key, value in after.items()} | whole.report(timing)
    return {**_summary(judged, dataset), "cost": cost}


async def replay(memory: Replayable, conversation: Conversation, user: str, timing: Timing) -> None:
    """Feed a conversation session by session, with its own times, and wait until it has become memory."""
    for session in conversation.sessions:
        messages = [Message(m.role, m.text, name=m.name, id=m.id) for m in session.messages if m.text.strip()]
        timing.messages += len(messages)
        timing.raw_tokens += sum(num_tokens(message.content) for message in messages)
        started = time.perf_counter()
        if messages:
            await memory.add(messages, user_id=user, session_id=session.id, timestamp=session.timestamp)
        timing.add += time.perf_counter() - started
    started = time.perf_counter()
    await memory.flush(user_id=user)
    timing.flush += time.perf_counter() - started


class _Judge:
    """Measures answers to the questions of one conversation."""

    def __init__(self, conversation: Conversation, dataset: Dataset, render: Callable[[Hit], str]) -> None:
        self._turns = {message.id: message.text for message in conversation.messages}
        self._idf = idf_table(list(self._turns.values()))
        self._budgets = dataset.budgets
        self._render = render
        self.top_k = min(_MAX_TOP_K, max(*KS, max(dataset.budgets) // _SHORTEST_LINE))

    def __call__(self, question: Question, hits: Sequence[Hit]) -> _Judgement:
        lines = [self._render(hit) for hit in hits]
        main: dict[str, float] = {}
        credited: dict[str, float] = {}
        cuts = {f"{k}": k for k in KS} | {f"{b}": within_budget(lines, b) for b in self._budgets}
        for name, count in cuts.items():
            main[f"R@{name}"] = evidence_recall([hit.source_ids for hit in hits[:count]], question.gold)
            credited[f"R@{name}"] = evidence_recall([self._credited(question, hits[:count])], question.gold)
        for budget in self._budgets:
            text = "\n".join(lines[: cuts[f"{budget}"]])
            main[f"ans@{budget}"] = answer_recall(question.answer, text)
            main[f"ansfull@{budget}"] = answer_contained(question.answer, text)
        return _Judgement(question.category, main, credited)

    def _credited(self, question: Question, hits: Sequence[Hit]) -> set[str]:
        """Gold messages that these hits may claim. Entries that are stretches of a message are judged together."""
        earned = set()
        for gold in question.gold:
            claims = [hit for hit in hits if gold in hit.source_ids]
            stretches = " ".join(hit.text for hit in claims if hit.kind == "turn")
            texts = [stretches, *(hit.text for hit in claims if hit.kind != "turn")]
            turn = self._turns[gold]
            if claims and any(is_credited(text, turn, self._idf, question.answer) for text in texts):
                earned.add(gold)
        return earned


@dataclass(slots=True)
class _Whole:
    """Size and retention of whole memories."""

    tokens: int = 0
    retained: list[float] = field(default_factory=list)

    def add(self, conversation: Conversation, headline: frozenset[str], lines: Sequence[str]) -> None:
        text = "\n".join(lines)
        self.tokens += num_tokens(text)
        asked = [q for q in conversation.questions if q.gold and q.category in headline]
        self.retained += [answer_contained(question.answer, text) for question in asked]

    def report(self, timing: Timing) -> dict[str, float]:
        if not self.retained:
            return {}
        return {"memory_tokens_per_raw": self.tokens / max(1, timing.raw_tokens), "retention": mean(self.retained)}


def _summary(judged: Sequence[_Judgement], dataset: Dataset) -> dict[str, Any]:
    groups: dict[str, list[_Judgement]] = {}
    for judgement in judged:
        groups.setdefault(judgement.category, []).append(judgement)
    if dataset.name == "beam":
        groups["facts"] = [judgement for judgement in judged if judgement.category in BEAM_FACTS]
    headline = [judgement for judgement in judged if judgement.category in dataset.headline]
    return {
        "main": _means([judgement.main for judgement in headline]),
        "credited": _means([judgement.credited for judgement in headline]),
        "by_category": {name: _means([j.main for j in group]) for name, group in sorted(groups.items()) if group},
    }


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not rows:
        return {"questions": 0}
    return {**{key: mean([row[key] for row in rows]) for key in rows[0]}, "questions": len(rows)}


def _cost(timing: Timing, num_conversations: int, seconds: float) -> dict[str, float]:
    searches = np.array(timing.searches or [0.0])
    return {
        "conversations": num_conversations,
        "messages": timing.messages,
        "raw_tokens": timing.raw_tokens,
        "seconds": seconds,
        "add_seconds": timing.add,
        "flush_seconds": timing.flush,
        "seconds_per_message": (timing.add + timing.flush) / max(1, timing.messages),
        "search_ms_p50": float(np.percentile(searches, 50)) * 1000,
        "search_ms_p99": float(np.percentile(searches, 99)) * 1000,
    }
