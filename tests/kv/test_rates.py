from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.kv.rates import Rates


def test_a_load_pays_when_it_is_quicker() -> None:
    rates = Rates(tokens=1000, bytes=1e6, overhead=0.01)
    assert rates.pays(100, 50_000)  # .06 s for .1 s
    assert not rates.pays(100, 100_000)  # .11 s
    assert not rates.pays(5, 1)


def test_one_bad_load_is_enough_and_time_forgives() -> None:
    now = [0.0]
    rates = Rates(tokens=1000, bytes=1e6, overhead=0.0, now=lambda: now[0])
    rates.loaded(50_000, 5.0)
    assert not rates.pays(100, 50_000)
    now[0] += 600
    assert rates.pays(100, 50_000)


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-6, 100)), max_size=20), st.floats(0, 1e5))
def test_expectations_stay_finite_and_positive(loads: list[tuple[int, float]], later: float) -> None:
    now = [0.0]
    rates = Rates(tokens=1000, bytes=1e6, now=lambda: now[0])
    for size, seconds in loads:
        rates.loaded(size, seconds)
        rates.computed(64, seconds)
        now[0] += later
        assert 0 < rates.load_seconds(1000) < float("inf")
        assert 0 < rates.compute_seconds(10) < float("inf")


def test_the_speed_of_computing_follows_what_is_measured() -> None:
    rates = Rates(tokens=1000, bytes=1e6)
    for _ in range(30):
        rates.computed(100, 1.0)
    assert abs(rates.compute_seconds(100) - 1.0) < 0.05


def test_what_is_given_up_is_not_tried_again_here_or_by_who_follows() -> None:
    rates, follower = Rates(tokens=1000, bytes=1e9, may_give_up=True), Rates(tokens=1000, bytes=1e9)
    follower.follow(*rates.shown())
    assert rates.pays(100, 1000)
    assert follower.pays(100, 1000)
    assert rates.give_up()
    follower.follow(*rates.shown())
    rates.loaded(1000, 1e-6)
    assert not rates.pays(100, 1000)
    assert not follower.pays(100, 1000)
    follower.follow(1000, 1e9)
    assert not follower.pays(100, 1000)


def test_what_was_asked_for_is_not_given_up() -> None:
    rates = Rates(tokens=1000, bytes=1e9)
    assert not rates.give_up()
    assert rates.pays(100, 1000)
    assert rates.shown()[1] > 0
