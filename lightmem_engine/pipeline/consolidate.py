"""One run of sleep: user by user, round by round, until nothing is left to decide or the budget is spent.

A round reads the user's entries, lets rules decide what is plain and, in `llm` mode, asks the model about the pairs
that are left. What is decided together is applied in one transaction together with what it cost, so that a run that is
killed goes on where it was and repeats no call that had come back.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError, NotFound, Overloaded
from lightmem_engine.pipeline.forgetting import Forgetting
from lightmem_engine.pipeline.means import Means
from lightmem_engine.pipeline.meter import Meter
from lightmem_engine.pipeline.summaries import Summaries
from lightmem_engine.sleep import rules
from lightmem_engine.sleep.decide import Answer
from lightmem_engine.sleep.parts import Part, cut
from lightmem_engine.sleep.queue import Queue, newer_sources, published_sources
from lightmem_engine.stores import sleep_notes
from lightmem_engine.stores.consolidate import Applied, Spent, apply
from lightmem_engine.stores.memory_db import snapshot
from lightmem_engine.stores.reembed import embedded_text
from lightmem_engine.types import Decision, RunState, Scope, SleepNote, SleepRun, Usage

logger = logging.getLogger(__name__)

DECISIONS_PER_WRITE = 64
MAX_ROUNDS = 100


@dataclass(slots=True)
class _Plan:
    """What a round has to do: carry out what rules decided or, once there is nothing of that, ask the model."""

    fresh: list[SleepNote]
    notes: dict[str, SleepNote] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)  # entries with a pair that could not be decided in this run


class Consolidator:
    """Carries out runs over one database, one after the other. Belongs to one event loop."""

    def __init__(self, config: EngineConfig, means: Means) -> None:
        self._options = config.sleep
        self._means = means
        self._db = means.db
        self._summaries = Summaries(config.sleep, means)
        self._forgetting = Forgetting(config.forget, means)

    async def run(self, run: SleepRun) -> tuple[RunState, str | None]:
        """Go through a run; returns how it ended, and why if not well. Raises `NotFound` for a run that was
        erased meanwhile, and `StoreError`: then it is still `running`, and goes on after a restart."""
        meter = Meter(run, self._means.clock.monotonic)
        if run.user is not None:
            scopes = [Scope(user=run.user, tenant=run.tenant)]
        else:
            scopes = await self._db.read(partial(sleep_notes.users, tenant=run.tenant))
        error: str | None = None
        try:
            for scope in scopes:
                await self._user(run, scope, meter)
                if meter.is_cut:
                    break
        except (BackendUnavailable, Overloaded) as failure:
            logger.warning("a run of sleep stops: %s", failure)
            error = type(failure).__name__  # kept with the run; a server's words may quote what somebody said
        return ("stopped" if meter.is_cut or error is not None else "done"), error

    async def _user(self, run: SleepRun, scope: Scope, meter: Meter) -> None:
        failed: set[tuple[str, str]] = set()
        for _ in range(MAX_ROUNDS):
            if meter.is_late:
                meter.is_cut = True
                return
            plan = await self._plan(run, scope, failed)
            if plan.decisions:
                await self._carry_out(run, scope, plan, meter)
            elif plan.parts:
                await self._ask_all(run, scope, plan, meter, failed)
                if meter.left_over:
                    meter.is_cut = True
                    await self._write(run, scope, (), {}, Spent(undecided=meter.left_over, seconds=meter.lap()))
                    return
            else:
                await self._finish(run, scope, plan, meter)
                await self._summaries.user(run, scope, meter)
                await self._forgetting.user(run, scope)
                return
        logger.warning("a run of sleep left a user after %d rounds", MAX_ROUNDS)

    async def _plan(self, run: SleepRun, scope: Scope, failed: set[tuple[str, str]]) -> _Plan:
        def read(
            connection: sqlite3.Connection,
        ) -> tuple[list[SleepNote], dict[str, bytes], dict[tuple[str, str], bytes]]:
            return (
                sleep_notes.load(connection, scope),
                sleep_notes.seen(connection, scope),
                sleep_notes.decided(connection, scope),
            )

        notes, seen, decided = await self._db.read(snapshot(read))
        fresh = [note for note in notes if seen.get(note.id) != sleep_notes.digest(note.text)]
        if not fresh:
            return _Plan([])
        return await asyncio.to_thread(self._planned, run, notes, fresh, decided, set(failed))

    def _planned(
        self,
        run: SleepRun,
        notes: list[SleepNote],
        fresh: list[SleepNote],
        decided: dict[tuple[str, str], bytes],
        failed: set[tuple[str, str]],
    ) -> _Plan:
        def known(target: SleepNote, source: SleepNote) -> bool:
            before = decided.get((target.id, source.id))
            return before is not None and before == sleep_notes.digest(target.text, source.text)

        plan = _Plan(fresh, {note.id: note for note in notes}, failed={id for pair in failed for id in pair})
        readings = [rules.read(note) for note in notes]
        new = {note.id for note in fresh}
        may_supersede = run.mode == "rules" or self._means.reach.is_small
        plan.decisions = rules.decide(readings, new, known, may_supersede=may_supersede)
        if plan.decisions or run.mode == "rules":
            return plan
        wanted: dict[int, list[int]] = {}
        pairs = [
            (target, source)
            for target, sources in self._queue(notes, new)
            for source in sources
            if self._matters(readings[target], readings[source])
        ]
        for target, source in dict.fromkeys((*pairs, *rules.related(readings, self._options.top_k))):
            older, newer = notes[target], notes[source]
            if ({older.id, newer.id} & new) and (older.id, newer.id) not in failed and not known(older, newer):
                wanted.setdefault(target, []).append(source)
        plan.parts = cut(notes, wanted, self._means.reach.max_notes, singly=self._means.reach.is_small)
        return plan

    def _matters(self, target: rules.Reading, source: rules.Reading) -> bool:
        """Whether the model should be asked about a pair that is near enough."""
        if self._means.reach.is_small:
            return rules.may_matter(target, source) and not rules.apart(target, source)
        return rules.matters(target, source)

    def _queue(self, notes: list[SleepNote], new: set[str]) -> Queue:
        """Pairs by similarity. The notes come in their order, so a row is a place in it."""
        vectors = np.stack([note.vector for note in notes])
        order = np.stack([np.arange(len(notes))] * 2, axis=1)
        group = np.zeros(len(notes), np.int64)
        top_k, threshold = self._options.top_k, self._means.reach.threshold
        if self._options.queue == "published":
            scores, rows = self._means.topk(vectors, order, group, top_k, direction="older", queries=None)
            return published_sources(scores, rows, threshold=threshold)
        fresh = np.array([row for row, note in enumerate(notes) if note.id in new], np.int64)
        some = None if len(fresh) == len(notes) else fresh
        return newer_sources(self._means.topk, vectors, order, group, k=top_k, threshold=threshold, fresh=some)

    async def _carry_out(self, run: SleepRun, scope: Scope, plan: _Plan, meter: Meter) -> None:
        for start in range(0, len(plan.decisions), DECISIONS_PER_WRITE):
            some = plan.decisions[start : start + DECISIONS_PER_WRITE]
            named = {id for decision in some for id in (decision.target, *decision.sources)}
            spent = Spent(pairs=len(some), seconds=meter.lap())
            await self._write(run, scope, some, {id: plan.notes[id] for id in named}, spent)

    async def _ask_all(
        self, run: SleepRun, scope: Scope, plan: _Plan, meter: Meter, failed: set[tuple[str, str]]
    ) -> None:
        """Ask about every part, as many at once as may be, and apply each answer as it comes."""
        slots = asyncio.Semaphore(self._means.at_once)

        async def one(part: Part) -> None:
            async with slots:
                if meter.is_spent:
                    meter.left_over += part.num_pairs
                    return
                meter.calls += 1  # reserved: calls under way count
                answer = await self._answer(part)
                meter.calls += answer.num_calls - 1
                meter.tokens += answer.usage.prompt_tokens + answer.usage.completion_tokens
                self._means.failpoints.reach("sleep.answer")
                if answer.decisions is None:
                    failed.update(_pairs(part))
                decisions = await self._with_vectors(part, answer.decisions or ())
                lost = 0 if answer.decisions is not None else part.num_pairs
                spent = Spent(part.num_pairs, answer.num_calls, answer.usage, meter.lap(), lost)
                await self._write(run, scope, decisions, {note.id: note for note in part.notes}, spent)

        tasks = [asyncio.ensure_future(one(part)) for part in plan.parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, part: Part) -> Answer:
        """The model's answer; none for a prompt it cannot take. Raises what does not pass by waiting a little."""
        assert self._means.decider is not None
        for attempt in range(1, self._means.retry.max_attempts + 1):
            try:
                return await self._means.decider.decide(part)
            except (ModelError, InvalidInput) as error:
                logger.warning("no decision for %d entries: %s", len(part.notes), type(error).__name__)
                return Answer(None, 1, Usage())
            except (BackendUnavailable, Overloaded):
                if attempt == self._means.retry.max_attempts:
                    raise
                await self._means.retry.pause(attempt)
        raise AssertionError("unreachable")

    async def _with_vectors(self, part: Part, decisions: Sequence[Decision]) -> list[Decision]:
        """Decisions with the vectors of the texts they bring."""
        notes = {note.id: note for note in part.notes}
        wanted = [d for d in decisions if d.texts and not d.rejected]
        texts = []
        for decision in wanted:
            note = notes[decision.target]
            kind = note.kind if decision.action == "update" else "fact"
            texts += [embedded_text(kind, note.speaker, text, None, self._means.spoken) for text in decision.texts]
        rows = iter(await self._means.embed(texts) if texts else ())
        found = {d.target: replace(d, vectors=tuple(next(rows) for _ in d.texts)) for d in wanted}
        return [found.get(decision.target, decision) for decision in decisions]

    async def _write(
        self, run: SleepRun, scope: Scope, decisions: Sequence[Decision], notes: dict[str, SleepNote], spent: Spent
    ) -> None:
        now = self._means.clock.now()

        def write(connection: sqlite3.Connection) -> Applied:
            done = apply(connection, scope, run.id, decisions, notes, spent, self._means.embed_model, now)
            self._means.failpoints.reach("sleep.commit")
            return done

        done = await self._db.write(write)
        if spent.calls and not done.is_whole:  # the model has read words that are to be forgotten
            await self._means.forget_prompts()
        if not done.is_alive:
            raise NotFound(f"run {run.id} was erased with its user")

    async def _finish(self, run: SleepRun, scope: Scope, plan: _Plan, meter: Meter) -> None:
        """Everything of this user has been looked at, but for what could not be decided."""
        notes = [note for note in plan.fresh if note.id not in plan.failed]
        await self._db.write(partial(sleep_notes.mark_seen, scope=scope, notes=notes))
        await self._write(run, scope, (), {}, Spent(seconds=meter.lap()))


def _pairs(part: Part) -> set[tuple[str, str]]:
    return {
        (part.notes[target].id, part.notes[source].id) for target, sources in part.sources.items() for source in sources
    }
