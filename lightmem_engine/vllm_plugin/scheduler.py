"""vLLM's scheduler, which lets background requests stand still while somebody chats.

A background request (priority above 0) is left out of every step while a chat is in the engine, or anywhere between
its arrival and its end, as the owner's flag says. It keeps its KV blocks and its place, so nothing of it is done twice.
Steps of background work alone are cut short, so that a chat that comes waits for a small one. Nothing starves (`hold`).
And nothing locks: while blocks are scarce, or after a step in which no chat could move, vLLM schedules as always.

vLLM's scheduler is not a stable interface; what is used of it is in `compat` and its contract test. Runs in the
engine's process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightmem_engine.runtime.flag import NAME, ForegroundFlag
from lightmem_engine.vllm_plugin import compat
from lightmem_engine.vllm_plugin.hold import to_hold
from lightmem_engine.vllm_plugin.settings import VARIABLE, received

SCARCE = 0.9  # share of KV blocks in use
SLICE_TOKENS = 32 if compat.is_cpu() else 2048
STILL_SECONDS = 0.001  # between looks at the flag while nothing may move


class _Pausing:
    """Mixed into a scheduler of vLLM's."""

    running: list[Any]
    waiting: Any
    kv_cache_manager: Any
    max_num_scheduled_tokens: int
    max_num_running_reqs: int

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_stuck = False
        told = VARIABLE in os.environ
        self._flag = ForegroundFlag(Path(received().socket).parent / NAME) if told else None

    def schedule(self, *args: Any, **options: Any) -> Any:
        """One step."""
        everybody = [*self.running, *self.waiting]
        users_wait = self._flag is not None and self._flag.read() > 0
        is_free = not self._is_stuck and self.kv_cache_manager.usage <= SCARCE
        held = to_hold(everybody, time.time(), users_wait=users_wait) if is_free else []
        if held:
            output = self._without(held, args, options)
            is_alone = len(held) == len(everybody)
            self._is_stuck = not is_alone and not output.total_num_scheduled_tokens
            if is_alone:
                time.sleep(STILL_SECONDS)
            return output
        self._is_stuck = False
        if everybody and all(request.priority > 0 for request in everybody):
            return self._sliced(args, options)
        return super().schedule(*args, **options)  # type: ignore[misc]

    def _without(self, held: list[Any], args: Any, options: Any) -> Any:
        ids = {request.request_id for request in held}
        running = [request for request in self.running if request.request_id in ids]
        waiting = [request for request in self.waiting if request.request_id in ids]
        self.running = [request for request in self.running if request.request_id not in ids]
        self.waiting.remove_requests(waiting)
        # Those that stand still hold their places, or they would be too many when they go on.
        limit = self.max_num_running_reqs
        self.max_num_running_reqs = limit - len(running)
        try:
            return super().schedule(*args, **options)  # type: ignore[misc]
        finally:
            self.max_num_running_reqs = limit
            self.running = [*self.running, *running]
            for request in waiting:
                self.waiting.add_request(request)

    def _sliced(self, args: Any, options: Any) -> Any:
        whole = self.max_num_scheduled_tokens
        self.max_num_scheduled_tokens = min(whole, SLICE_TOKENS)
        try:
            return super().schedule(*args, **options)  # type: ignore[misc]
        finally:
            self.max_num_scheduled_tokens = whole


class PausingScheduler(_Pausing, compat.symbol("Scheduler")):  # type: ignore[misc]
    """For engines that schedule between steps."""


class PausingAsyncScheduler(_Pausing, compat.symbol("AsyncScheduler")):  # type: ignore[misc]
    """For engines that schedule ahead."""
