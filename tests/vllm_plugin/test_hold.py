"""Which requests stand still in a step of vLLM's scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.types import Priority
from lightmem_engine.vllm_plugin.scheduling.hold import AGE_SECONDS, to_hold

NOW = 1000.0


@dataclass(frozen=True)
class Request:
    """What the rule reads of a request of vLLM's."""

    priority: int
    arrival_time: float


REQUESTS = st.lists(st.builds(Request, st.sampled_from([-1, 0, 1, 5, 10]), st.floats(0, NOW)), max_size=8)


@given(REQUESTS, st.booleans())
def test_chats_always_move_and_the_aged_do_not_starve(requests: list[Request], users_wait: bool) -> None:
    held = to_hold(requests, NOW, users_wait=users_wait)
    assert all(request.priority > 0 for request in held)
    background = [request for request in requests if request.priority > 0]
    if not users_wait and len(background) == len(requests):
        assert held == []
    free = [request for request in background if not any(request is other for other in held)]
    if held:
        assert len(free) <= 1
        assert all(request.priority == Priority.AGED or NOW - request.arrival_time >= AGE_SECONDS for request in free)


def test_a_chat_stops_background_work_wherever_it_is() -> None:
    chat, extraction, sleep = Request(0, 999.0), Request(5, 998.0), Request(10, 990.0)
    assert to_hold([extraction, sleep], NOW, users_wait=False) == []
    assert to_hold([extraction, sleep], NOW, users_wait=True) == [extraction, sleep]
    assert to_hold([chat, extraction, sleep], NOW, users_wait=False) == [extraction, sleep]
    assert to_hold([chat], NOW, users_wait=True) == []


def test_the_oldest_goes_on_once_it_is_of_age() -> None:
    old, older = Request(5, NOW - AGE_SECONDS - 1), Request(10, NOW - AGE_SECONDS - 2)
    assert to_hold([Request(0, NOW), old, older], NOW, users_wait=True) == [old]


def test_what_its_owner_has_let_wait_goes_on_at_once_and_in_its_turn() -> None:
    chat, aged = Request(0, NOW), Request(Priority.AGED, NOW)
    held, later = Request(10, NOW - AGE_SECONDS + 1), Request(5, NOW - 1)
    assert to_hold([chat, held, aged, later], NOW, users_wait=True) == [held, later]
    assert to_hold([chat, held, aged, later], NOW, users_wait=True, chats_begin=True) == [held, aged, later]
    older = Request(10, NOW - AGE_SECONDS - 1)
    assert to_hold([chat, older, aged], NOW, users_wait=True) == [aged], "one at a time, the oldest first"
    late = Request(Priority.AGED, NOW - AGE_SECONDS)
    assert to_hold([chat, late], NOW, users_wait=True, chats_begin=True) == [], "overdue, beside any chat"
