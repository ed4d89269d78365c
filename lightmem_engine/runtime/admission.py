"""Who may use the language model now: chat at once, background work when nobody waits.

The local policy. Classes are `Priority`: foreground work is always admitted; background work waits until fewer than
`max_background` calls run and no foreground request is under way. Waiters are served by class, then in order of
arrival. So that nothing starves, the first waiter is admitted beside the foreground after `max_wait` seconds.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from lightmem_engine.protocols import LanguageModel
from lightmem_engine.types import Completion, Delta, Priority, Prompt, Sampling


@dataclass(order=True, slots=True)
class _Waiter:
    priority: int
    order: int
    admitted: asyncio.Future[None] = field(compare=False)


class Admission:
    """Belongs to one event loop; not thread-safe."""

    def __init__(self, max_background: int, max_wait: float = 30.0) -> None:
        self._max_background = max_background
        self._max_wait = max_wait
        self._num_foreground = 0
        self._num_background = 0
        self._waiters: list[_Waiter] = []
        self._order = itertools.count()

    @property
    def num_foreground(self) -> int:
        """Foreground requests under way."""
        return self._num_foreground

    @property
    def num_waiting(self) -> int:
        """Background calls that wait."""
        return sum(not waiter.admitted.done() for waiter in self._waiters)

    @contextmanager
    def foreground(self) -> Iterator[None]:
        """Hold while a user waits for an answer."""
        self._num_foreground += 1
        try:
            yield
        finally:
            self._num_foreground -= 1
            self._admit_waiters()

    @asynccontextmanager
    async def admit(self, priority: Priority, tokens: int, tenant: str) -> AsyncIterator[None]:
        """Hold while one call of about `tokens` tokens runs for `tenant`; waits until it may start.

        The local policy orders by class and arrival alone; `tokens` and `tenant` are for policies that slice work
        or share it between tenants.
        """
        if priority is Priority.FOREGROUND:
            with self.foreground():
                yield
            return
        await self._enter(priority)
        try:
            yield
        finally:
            self._num_background -= 1
            self._admit_waiters()

    async def _enter(self, priority: Priority) -> None:
        if self._open() and not self._waiters:
            self._num_background += 1
            return
        waiter = _Waiter(int(priority), next(self._order), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiters, waiter)
        timer = asyncio.get_running_loop().call_later(self._max_wait, self._overdue, waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.done() and not waiter.admitted.cancelled():
                self._num_background -= 1
            self._admit_waiters()
            raise
        finally:
            timer.cancel()

    def _open(self) -> bool:
        return self._num_foreground == 0 and self._num_background < self._max_background

    def _overdue(self, waiter: _Waiter) -> None:
        if not waiter.admitted.done() and self._num_background < self._max_background:
            self._num_background += 1
            waiter.admitted.set_result(None)

    def _admit_waiters(self) -> None:
        while self._waiters and (self._open() or self._waiters[0].admitted.done()):
            waiter = heapq.heappop(self._waiters)
            if not waiter.admitted.done():
                self._num_background += 1
                waiter.admitted.set_result(None)


class AdmittedModel:
    """A language model whose every call waits for admission."""

    def __init__(self, model: LanguageModel, admission: Admission, tenant: str = "default") -> None:
        self.name = model.name
        self._model = model
        self._admission = admission
        self._tenant = tenant

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        """As the model's, one admission for all prompts."""
        tokens = sum(len(str(message.get("content", ""))) // 4 for prompt in prompts for message in prompt.messages)
        async with self._admission.admit(priority, tokens, self._tenant):
            return await self._model.generate(prompts, sampling=sampling, priority=priority)

    async def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncIterator[Delta]:
        """As the model's."""
        async with self._admission.admit(priority, 0, self._tenant):
            async for delta in self._model.stream(prompt, sampling=sampling, priority=priority):
                yield delta

    async def prefill(self, prompt: Prompt, beside: Prompt, priority: Priority) -> int:
        """As the model's, which must be one that reads ahead."""
        async with self._admission.admit(priority, 0, self._tenant):
            found: int = await self._model.prefill(prompt, beside, priority)  # type: ignore[attr-defined]
            return found

    async def aclose(self) -> None:
        """The model belongs to somebody else."""
