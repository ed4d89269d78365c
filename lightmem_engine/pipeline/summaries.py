"""The last part of a run of sleep: what happened since, summarised window by window."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from functools import partial

from lightmem_engine.config_sleep import SleepConfig
from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError, NotFound, Overloaded
from lightmem_engine.pipeline.means import Means
from lightmem_engine.pipeline.meter import Meter
from lightmem_engine.sleep.summarize import Summary
from lightmem_engine.sleep.windows import Event, events
from lightmem_engine.stores import sleep_notes, summaries
from lightmem_engine.stores.consolidate import Spent
from lightmem_engine.stores.memory_db import snapshot
from lightmem_engine.types import Scope, SleepRun, Usage

logger = logging.getLogger(__name__)

_MAX_WINDOW = 256  # entries of one prompt, however much was said within the hour


class Summaries:
    """Writes summaries for runs. Belongs to one event loop."""

    def __init__(self, options: SleepConfig, means: Means) -> None:
        self._options = options
        self._means = means

    async def user(self, run: SleepRun, scope: Scope, meter: Meter) -> None:
        """Retire what tells of things that changed, then summarise every window that is due and within the budget.

        Each summary is stored with what it cost as it comes, so a run that is killed repeats none. Raises `NotFound`
        for a run that was erased meanwhile.
        """
        if self._means.summarizer is None:
            return
        now = self._means.clock.now()
        await self._means.db.write(partial(summaries.retire, scope=scope, run=run.id, now=now))
        notes, covered = await self._means.db.read(
            snapshot(lambda c: (sleep_notes.load(c, scope), summaries.covered(c, scope)))
        )
        options = self._options
        due = await asyncio.to_thread(
            events,
            notes,
            covered,
            seconds=options.summary_window,
            least=options.summary_notes,
            most=max(_MAX_WINDOW, options.summary_notes),
            seeds=options.summary_seeds,
            now=now,
        )
        slots = asyncio.Semaphore(self._means.at_once)
        tasks = [asyncio.ensure_future(self._one(run, scope, meter, slots, event)) for event in due]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, run: SleepRun, scope: Scope, meter: Meter, slots: asyncio.Semaphore, event: Event) -> None:
        async with slots:
            if meter.is_spent:
                meter.is_cut = True
                return
            meter.calls += 1  # reserved: calls under way count
            found = await self._summary(event)
            meter.calls += found.num_calls - 1
            meter.tokens += found.usage.prompt_tokens + found.usage.completion_tokens
            self._means.failpoints.reach("sleep.answer")
            vector = None if found.text is None else (await self._means.embed([found.text]))[0]
            spent = Spent(
                calls=found.num_calls, usage=found.usage, seconds=meter.lap(), undecided=int(found.text is None)
            )
            told = partial(summaries.store, scope=scope, run=run.id, text=found.text, vector=vector)
            told = partial(told, own=event.own, cited=found.cited, spent=spent, embed_model=self._means.embed_model)
            now = self._means.clock.now()

            def write(connection: sqlite3.Connection) -> bool:
                is_alive = told(connection, now=now)
                self._means.failpoints.reach("sleep.commit")
                return is_alive

            if not await self._means.db.write(write):
                await self._means.forget_prompts()  # the model has read words that are to be forgotten
                raise NotFound(f"run {run.id} was erased with its user")

    async def _summary(self, event: Event) -> Summary:
        """The model's answer; none for a prompt it cannot take. Raises what does not pass by waiting a little."""
        assert self._means.summarizer is not None
        for attempt in range(1, self._means.retry.max_attempts + 1):
            try:
                return await self._means.summarizer.summarize(event)
            except (ModelError, InvalidInput) as error:
                logger.warning("no summary of %d entries: %s", len(event.notes), type(error).__name__)
                return Summary(None, (), 1, Usage())
            except (BackendUnavailable, Overloaded):
                if attempt == self._means.retry.max_attempts:
                    raise
                await self._means.retry.pause(attempt)
        raise AssertionError("unreachable")
