"""How fast a worker computes, measured over its steps."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch

from lightmem_engine.kv.rates import Rates

MEASURED_TOKENS = 64  # of a step; shorter ones say more of what a step costs than of what a token costs

_cuda: Any = torch.cuda  # its events are not typed


class StepTimes:
    """Tells `rates` of each step. On a GPU a step has only been given to the device when it ends here, so the device's
    own clock is asked, later and without waiting."""

    def __init__(self, rates: Rates, device: torch.device) -> None:
        self._rates = rates
        self._is_cuda = device.type == "cuda"
        self._began: Any = None
        self._pending: deque[tuple[int, Any, Any]] = deque()

    def begin(self) -> None:
        """A step begins."""
        self._began = self._mark()

    def end(self, num_tokens: int) -> None:
        """It is over, or all of it has been given to the device."""
        if self._began is not None and num_tokens >= MEASURED_TOKENS:
            self._pending.append((num_tokens, self._began, self._mark()))
        self._began = None
        while self._pending and (not self._is_cuda or self._pending[0][2].query()):
            tokens, began, ended = self._pending.popleft()
            self._rates.computed(tokens, began.elapsed_time(ended) / 1000 if self._is_cuda else ended - began)

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = _cuda.Event(enable_timing=True)
        event.record()
        return event
