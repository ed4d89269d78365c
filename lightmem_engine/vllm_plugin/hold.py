"""Which requests stand still in a step of vLLM's scheduler: the rule alone, without vLLM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

AGE_SECONDS = 30.0


def to_hold(requests: Iterable[Any], now: float, *, users_wait: bool) -> list[Any]:
    """Of the requests in the engine, those to leave out of a step: all background ones if there is a chat among them,
    or elsewhere on its way; but for the oldest of them if it is of age. Each has `priority` and `arrival_time`."""
    everybody = list(requests)
    background = [request for request in everybody if request.priority > 0]
    if not background or not (users_wait or len(background) < len(everybody)):
        return []
    oldest = min(background, key=lambda request: float(request.arrival_time))
    is_of_age = now - oldest.arrival_time > AGE_SECONDS
    return [request for request in background if not (is_of_age and request is oldest)]
