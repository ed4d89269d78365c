"""Who may use the language model now: chat at once, background work when nobody waits.

Classes are `Priority`. Foreground work is always admitted. Background work waits until there is room (`policy`), is
served by class and then in order of arrival, and gives way: where the policy preempts, a call in flight is cancelled
when a user comes, pauses and asks again. So that nothing starves, the call that has waited longest runs beside the
foreground once it has waited `max_wait` seconds, one at a time, and such a call does not give way.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lightmem_engine.protocols import LanguageModel
from lightmem_engine.runtime.policy import Load, Policy
from lightmem_engine.types import Completion, Delta, Priority, Prompt, Sampling

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Call:
    """A background call, from its arrival to its end, however often it gives way.

    admitted: while it waits.   is_aged: runs beside the foreground and does not give way.
    """

    priority: Priority
    order: int
    arrived: float
    admitted: asyncio.Future[None] | None = None
    work: asyncio.Future[Any] | None = None
    is_running: bool = False
    is_aged: bool = False
    gave_way: int = 0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def at(self) -> Priority:
        """The class it runs at."""
        return Priority.AGED if self.is_aged else self.priority


class Admission:
    """Belongs to one event loop; not thread-safe."""

    def __init__(self, policy: Policy, tell: Callable[[int], None] | None = None) -> None:
        """tell: is told how many users wait for an answer, whenever that changes."""
        self.policy = policy
        self._tell = tell or (lambda count: None)
        self._num_users = 0
        self._num_foreground = 0
        self._running: set[_Call] = set()
        self._waiting: set[_Call] = set()
        self._order = itertools.count()
        self._load: Load | None = None
        self._own_peak = 0
        self._counts = {"admitted": 0, "gave_way": 0, "aged": 0}

    @property
    def num_foreground(self) -> int:
        """Foreground requests under way."""
        return self._num_foreground

    @property
    def num_waiting(self) -> int:
        """Background calls that wait."""
        return len(self._waiting)

    @property
    def num_background(self) -> int:
        """Background calls in flight."""
        return len(self._running)

    @property
    def counts(self) -> dict[str, int]:
        """Background calls admitted, given way, and run for their age, since the start."""
        return dict(self._counts)

    def heard(self, load: Load | None) -> None:
        """What the model server says of itself; None when it says nothing any more."""
        self._load = load
        if self.policy.room(0, self._own_peak, load) == 0:
            self._give_way()
        self._own_peak = len(self._running)
        self._admit()

    @contextmanager
    def foreground(self, *, brief: bool = False) -> Iterator[None]:
        """Hold while a user waits for an answer. brief: for what needs no language model; nothing gives way to it."""
        self._count(1, brief)
        if not (brief or self.policy.pauses):
            self._give_way()
        try:
            yield
        finally:
            self._count(-1, brief)
            self._admit()

    def _count(self, change: int, brief: bool) -> None:
        self._num_foreground += change
        if not brief:
            self._num_users += change
            self._tell(self._num_users)

    @asynccontextmanager
    async def admit(self, priority: Priority, tokens: int, tenant: str) -> AsyncIterator[Priority]:
        """Hold while one call of about `tokens` tokens runs for `tenant`; waits until it may start. Yields the class to
        run it at: `AGED` if it runs for its age. It does not give way: what can begin anew goes through `run`.

        Calls are ordered by class and arrival alone; `tokens` and `tenant` are for policies that slice work or share
        it between tenants.
        """
        if priority is Priority.FOREGROUND:
            with self.foreground():
                yield priority
            return
        call = self._arrival(priority)
        await self._enter(call)
        try:
            yield call.at
        finally:
            self._leave(call)

    async def run(self, priority: Priority, tokens: int, tenant: str, work: Callable[[Priority], Awaitable[T]]) -> T:
        """The result of `work(class)`, which is begun anew after it has given way. See `admit`."""
        if priority is Priority.FOREGROUND or not self.policy.preempts:
            async with self.admit(priority, tokens, tenant) as at:
                return await work(at)
        call = self._arrival(priority)
        while True:
            await self._enter(call)
            task = asyncio.ensure_future(work(call.at))
            call.work = task
            before = call.gave_way
            try:
                await asyncio.wait({task})
            finally:
                if not task.done():  # the caller has left
                    task.cancel()
                    await asyncio.wait({task})
                call.work = None
                self._leave(call)
            if not task.cancelled() or call.gave_way == before:
                return task.result()
            await asyncio.sleep(self.policy.pause(call.gave_way))

    def _arrival(self, priority: Priority) -> _Call:
        return _Call(priority, next(self._order), time.monotonic())

    async def _enter(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        call.admitted = loop.create_future()
        self._waiting.add(call)
        left = call.arrived + self.policy.max_wait - time.monotonic()
        call.timer = loop.call_later(max(0.0, left), self._admit)
        self._admit()
        try:
            await call.admitted
        except asyncio.CancelledError:
            self._waiting.discard(call)
            if call.is_running:
                self._leave(call)
            else:
                self._admit()
            raise
        finally:
            call.timer.cancel()

    def _leave(self, call: _Call) -> None:
        self._running.discard(call)
        call.is_running = call.is_aged = False
        self._admit()

    def _start(self, call: _Call, *, is_aged: bool) -> None:
        assert call.admitted is not None
        self._waiting.discard(call)
        self._running.add(call)
        self._own_peak = max(self._own_peak, len(self._running))
        call.is_running, call.is_aged = True, is_aged
        self._counts["admitted"] += 1
        self._counts["aged"] += is_aged
        call.admitted.set_result(None)

    def _admit(self) -> None:
        """Start what may start: by class and arrival while there is room, then the oldest if it is of age."""
        # One whose caller has left is gone a moment later.
        asking = [call for call in self._waiting if call.admitted is not None and not call.admitted.done()]
        waiting = sorted(asking, key=lambda call: (call.priority, call.order))
        room = self.policy.room(self._num_foreground, self._own_peak, self._load) - len(self._running)
        for call in waiting[: max(0, room)]:
            self._start(call, is_aged=False)
        still = [call for call in waiting if not call.is_running]
        if not still or len(self._running) >= self.policy.ceiling or any(call.is_aged for call in self._running):
            return
        oldest = min(still, key=lambda call: call.order)
        if time.monotonic() - oldest.arrived >= self.policy.max_wait:
            self._start(oldest, is_aged=True)

    def _give_way(self) -> None:
        for call in self._running:
            if call.work is not None and not call.is_aged and not call.work.done() and self.policy.preempts:
                call.gave_way += 1
                self._counts["gave_way"] += 1
                call.work.cancel()


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
        return await self._admission.run(
            priority,
            tokens,
            self._tenant,
            lambda at: self._model.generate(prompts, sampling=sampling, priority=at),
        )

    async def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncIterator[Delta]:
        """As the model's."""
        async with self._admission.admit(priority, 0, self._tenant) as at:
            async for delta in self._model.stream(prompt, sampling=sampling, priority=at):
                yield delta

    async def prefill(self, prompt: Prompt, beside: Prompt, priority: Priority) -> int:
        """As the model's, which must be one that reads ahead."""
        async with self._admission.admit(priority, 0, self._tenant) as at:
            found: int = await self._model.prefill(prompt, beside, at)  # type: ignore[attr-defined]
            return found

    async def aclose(self) -> None:
        """The model belongs to somebody else."""
