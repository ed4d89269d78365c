"""What is kept across restarts, by what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.kv.choice import PATIENCE_SECONDS, NetBenefit, choose, instead
from lightmem_engine.kv.rates import Rates

TOKEN = 1000  # bytes


def chosen(tokens: float, num_bytes: float, **known: Any) -> tuple[str, str]:
    known = {"context": 4096, "can_warm": True, "room": 1 << 40} | known
    found = choose(known.pop("configured", "auto"), Rates(tokens, num_bytes), lambda n: n * TOKEN, **known)
    return found.mode, found.reason


def test_files_are_kept_where_loading_is_quicker() -> None:
    mode, reason = chosen(tokens=1000, num_bytes=1e9)
    assert mode == "persist"
    assert reason == "of 1024 tokens loading takes 3.02 ms, computing 1.02e+03"


def test_token_ids_are_kept_where_computing_is_quicker() -> None:
    mode, reason = chosen(tokens=1e6, num_bytes=1e8)
    assert mode == "warm"
    assert "computing 1.02" in reason


def test_nothing_is_kept_where_nothing_could_be_read_into() -> None:
    mode, reason = chosen(tokens=1e6, num_bytes=1e8, can_warm=False)
    assert mode == "off"
    assert "lm.cache_bytes = 0" in reason


def test_a_volume_without_room_is_not_counted_on() -> None:
    mode, reason = chosen(tokens=1000, num_bytes=1e9, room=-1)
    assert mode == "warm"
    assert "kv.min_free_bytes" in reason


def test_the_longest_prompt_decides_where_prompts_are_short() -> None:
    assert "of 16 tokens" in chosen(tokens=1000, num_bytes=1e9, context=16)[1]
    assert chosen(tokens=10_000, num_bytes=1e9, context=16)[0] == "warm", "a load is never quicker than its overhead"


@pytest.mark.parametrize("mode", ["off", "warm", "persist"])
def test_what_was_asked_for_is_not_put_in_question(mode: str) -> None:
    assert chosen(tokens=1e6, num_bytes=1.0, room=-1, configured=mode) == (mode, f"kv.mode = {mode}")


@given(tokens=st.floats(1e-3, 1e9), num_bytes=st.floats(1e-3, 1e12), room=st.integers(-(1 << 40), 1 << 40))
def test_files_are_chosen_only_if_a_load_would_be_tried_and_fits(tokens: float, num_bytes: float, room: int) -> None:
    mode, reason = chosen(tokens=tokens, num_bytes=num_bytes, room=room)
    assert (mode == "persist") == (Rates(tokens, num_bytes).pays(1024, 1024 * TOKEN) and room >= 1024 * TOKEN)
    assert reason
    assert instead(reason, can_warm=True).mode == "warm"


def test_ten_minutes_of_losses_are_enough_and_one_loss_is_not() -> None:
    now = [0.0]
    benefit = NetBenefit(lambda: now[0])
    assert not benefit.note(saved=100.0, waited=1.0)
    assert not benefit.note(saved=0.0, waited=2.0), "what was gained before does not count"
    now[0] = PATIENCE_SECONDS - 1
    assert not benefit.note(saved=1.0, waited=1.5)
    assert benefit.debt == pytest.approx(2.5)
    now[0] = PATIENCE_SECONDS
    assert benefit.note(saved=0.0, waited=0.0)


def test_a_loss_that_is_made_up_for_begins_anew() -> None:
    now = [0.0]
    benefit = NetBenefit(lambda: now[0])
    benefit.note(saved=0.0, waited=2.0)
    now[0] = PATIENCE_SECONDS * 2
    assert not benefit.note(saved=2.0, waited=0.0)
    assert not benefit.note(saved=0.0, waited=2.0)
    now[0] += PATIENCE_SECONDS - 1
    assert not benefit.note(saved=0.0, waited=2.0)
    now[0] += 1
    assert benefit.note(saved=0.0, waited=2.0)
