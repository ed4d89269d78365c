"""The published judged protocol: a reader answers from recalled notes, a judge compares with the reference.

Beside the memory stand two rows that need none of it: the full conversation as notes, and naive retrieval of raw turns
by vectors alone. Every question leaves one JSON line, with what was read, said and judged.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TextIO

import numpy as np

from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.evaluation.chat_api import Answer, ChatApi
from lightmem_engine.evaluation.datasets import Conversation, Dataset, Question
from lightmem_engine.evaluation.judge_prompts import grouped_by_speaker, judge_messages, reader_messages
from lightmem_engine.evaluation.metrics import mean
from lightmem_engine.evaluation.retrieval import Progress, Replayable, Timing, replay
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Hit, Vectors

TOP_K = {"locomo": 60, "longmemeval": 20}
NAIVE_TOP_K = 20
_READER_TOKENS = {"locomo": 64, "longmemeval": 2000}
_JUDGE_TOKENS = 64
_LABEL = re.compile(r"\{.*?\}", re.DOTALL)

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
Notes = Callable[[Question], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question of one row, as logged."""

    row: str
    conversation: str
    question_id: str
    category: str
    question: str
    reference: str
    notes_tokens: int
    answer: str
    verdict: str
    correct: bool
    error: str | None
    reader_prompt_tokens: int
    reader_completion_tokens: int
    judge_prompt_tokens: int
    judge_completion_tokens: int


async def judge(
    memory: Replayable,
    dataset: Dataset,
    *,
    reader: ChatApi,
    judge: ChatApi,
    render: Callable[[Hit], str],
    log: TextIO,
    embed: Embed | None = None,
    baselines: bool = True,
    concurrency: int = 4,
    progress: Progress | None = None,
    user_prefix: str = "judged",
) -> dict[str, Any]:
    """{"main": accuracy per row, "by_category", "cost", "settings"}.

    LoCoMo's adversarial questions are left out, as published. A reader or judge that fails makes the answer wrong and
    is named in the log. Without `embed` there is no naive row. Datasets without a published protocol are refused.
    """
    if dataset.name not in TOP_K:
        raise InvalidInput(f"{dataset.name} has no judged protocol, only {', '.join(TOP_K)}")
    await asyncio.gather(reader.start(), judge.start())
    protocol = _Protocol(dataset, reader, judge, asyncio.Semaphore(concurrency))
    verdicts: list[Verdict] = []
    for i, conversation in enumerate(dataset.conversations):
        user = f"{user_prefix}-{dataset.name}-{conversation.id}"
        await replay(memory, conversation, user, Timing())
        rows: dict[str, Notes] = {"memory": _recalled(memory, user, dataset.name, render)}
        if baselines:
            rows |= await _baselines(conversation, embed)
        for row, notes in rows.items():
            found = await protocol.run(row, conversation, notes)
            log.writelines(json.dumps(asdict(verdict), ensure_ascii=False) + "\n" for verdict in found)
            log.flush()
            verdicts += found
        if progress is not None:
            progress(i + 1, len(dataset.conversations))
    return _report(verdicts, dataset, reader, judge)


@dataclass(frozen=True, slots=True)
class _Protocol:
    """Asks reader and judge, a few questions at a time."""

    dataset: Dataset
    reader: ChatApi
    judge: ChatApi
    gate: asyncio.Semaphore

    async def run(self, row: str, conversation: Conversation, notes: Notes) -> list[Verdict]:
        asked = [q for q in conversation.questions if q.category in self.dataset.headline]
        return await asyncio.gather(*(self._one(row, conversation.id, question, notes) for question in asked))

    async def _one(self, row: str, conversation: str, question: Question, notes: Notes) -> Verdict:
        said = heard = Answer("", 0, 0)
        text, error = "", None
        async with self.gate:
            text = await notes(question)
            try:
                messages = reader_messages(self.dataset.name, question, text)
                said = await self.reader.ask(messages, _READER_TOKENS[self.dataset.name])
                heard = await self.judge.ask(judge_messages(self.dataset.name, question, said.text), _JUDGE_TOKENS)
            except (BackendUnavailable, ModelError) as failure:
                error = f"{failure.code}: {failure}"
        return Verdict(
            row=row,
            conversation=conversation,
            question_id=question.id,
            category=question.category,
            question=question.text,
            reference=question.answer,
            notes_tokens=num_tokens(text),
            answer=said.text,
            verdict=heard.text,
            correct=error is None and is_correct(self.dataset.name, heard.text),
            error=error,
            reader_prompt_tokens=said.prompt_tokens,
            reader_completion_tokens=said.completion_tokens,
            judge_prompt_tokens=heard.prompt_tokens,
            judge_completion_tokens=heard.completion_tokens,
        )


def is_correct(dataset: str, verdict: str) -> bool:
    """Read a judge's words: LoCoMo's JSON label, else the first word of a yes or no. Anything unreadable is wrong."""
    if dataset != "locomo":
        return re.match(r"\W*yes\b", verdict, re.IGNORECASE) is not None
    for candidate in _LABEL.findall(verdict):
        try:
            label = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(label, dict):
            return str(label.get("label", "")).strip().upper() == "CORRECT"
    return False


def _recalled(memory: Replayable, user: str, dataset: str, render: Callable[[Hit], str]) -> Notes:
    async def notes(question: Question) -> str:
        hits = await memory.search(question.text, user_id=user, top_k=TOP_K[dataset])
        if dataset == "locomo":
            return grouped_by_speaker([(hit.speaker, render(hit)) for hit in hits])
        return "\n".join(render(hit) for hit in hits)

    return notes


async def _baselines(conversation: Conversation, embed: Embed | None) -> dict[str, Notes]:
    lines = [
        f"[{_day(session.timestamp)}] {message.name or message.role}: {message.text}"
        for session in conversation.sessions
        for message in session.messages
    ]
    whole = "\n".join(lines)

    async def full_context(question: Question) -> str:
        return whole

    if embed is None:
        return {"full_context": full_context}
    vectors = await embed([f"{m.name or m.role}: {m.text}" for m in conversation.messages])

    async def naive_rag(question: Question) -> str:
        scores = vectors @ (await embed([question.text]))[0]
        return "\n".join(lines[i] for i in np.argsort(-scores, kind="stable")[:NAIVE_TOP_K])

    return {"full_context": full_context, "naive_rag": naive_rag}


def _day(timestamp: str | None) -> str:
    if timestamp is None:
        return "undated"
    day = datetime.fromisoformat(timestamp)
    return f"{day.day} {day:%B %Y}"


def _report(verdicts: Sequence[Verdict], dataset: Dataset, reader: ChatApi, judge: ChatApi) -> dict[str, Any]:
    rows: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault(verdict.row, []).append(verdict)
    return {
        "main": {row: mean([float(v.correct) for v in group]) for row, group in rows.items()},
        "by_category": {row: _by_category(group) for row, group in rows.items()},
        "cost": {row: _cost(group) for row, group in rows.items()},
        "settings": {
            "dataset": dataset.name,
            "reader": reader.model,
            "judge": judge.model,
            "seed": reader.seed,
            "top_k": TOP_K[dataset.name],
            "naive_top_k": NAIVE_TOP_K,
        },
    }


def _by_category(group: Sequence[Verdict]) -> Mapping[str, float]:
    categories = sorted({verdict.category for verdict in group})
    return {name: mean([float(v.correct) for v in group if v.category == name]) for name in categories}


def _cost(group: Sequence[Verdict]) -> Mapping[str, float]:
    return {
        "questions": len(group),
        "errors": sum(v.error is not None for v in group),
        "notes_tokens": mean([float(v.notes_tokens) for v in group]),
        "reader_prompt_tokens": sum(v.reader_prompt_tokens for v in group),
        "reader_completion_tokens": sum(v.reader_completion_tokens for v in group),
        "judge_prompt_tokens": sum(v.judge_prompt_tokens for v in group),
        "judge_completion_tokens": sum(v.judge_completion_tokens for v in group),
    }
