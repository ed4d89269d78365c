"""Which requests stand still in a step of vLLM's scheduler: the rule alone, without vLLM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightmem_engine.types import Priority

AGE_SECONDS = 30.0
OVERDUE_SECONDS = 2 * AGE_SECONDS


def to_hold(requests: Iterable[Any], now: float, *, users_wait: bool, chats_begin: bool = False) -> list[Any]:
    """Of the requests in the engine, those to leave out of a step: all background ones if there is a chat among them,
    or elsewhere on its way; but for the oldest of them if it is of age. Each has `priority` and `arrival_time`; one of
    class `AGED` is of age when it comes.

    chats_begin: a chat has its prompt before it in this step, in which even one of age stands still, unless overdue.
    """
    everybody = list(requests)
    background = [request for request in everybody if request.priority > 0]
    if not background or not (users_wait or len(background) < len(everybody)):
        return []
    oldest = min(background, key=_since)
    is_of_age = now - _since(oldest) >= (OVERDUE_SECONDS if chats_begin else AGE_SECONDS)
    return [request for request in background if not (is_of_age and request is oldest)]


def _since(request: Any) -> float:
    """When it began to wait: its owner has let what is aged wait as long as it waits here."""
    return float(request.arrival_time) - (AGE_SECONDS if request.priority == Priority.AGED else 0.0)
