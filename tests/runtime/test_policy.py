"""How much background work a model bears."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.runtime.policy import MAX_KV_USAGE, Load, Policy

COUNTS = st.integers(0, 50)
POLICIES = st.builds(
    Policy,
    max_background=st.integers(1, 20),
    slots=st.integers(0, 20),
    reserved=st.integers(0, 5),
    preempts=st.booleans(),
    pauses=st.booleans(),
)
LOADS = st.none() | st.builds(Load, COUNTS.map(float), COUNTS.map(float), st.floats(0, 1))


@given(POLICIES, COUNTS, COUNTS, LOADS)
def test_reserved_slots_stay_free_and_users_come_first(
    policy: Policy, num_foreground: int, own: int, load: Load | None
) -> None:
    room = policy.room(num_foreground, own, load)
    assert 0 <= room <= policy.max_background
    if policy.slots > policy.reserved:
        assert room <= policy.slots - policy.reserved
    if policy.slots and policy.pauses:
        assert room <= max(1, policy.slots // 2), "what stands still keeps its slot"
    is_full = load is not None and load.kv_usage > MAX_KV_USAGE
    is_used = load is not None and load.running + load.waiting > own
    if is_full or num_foreground or (is_used and not policy.pauses):
        assert room == 0
    else:
        assert room == policy.ceiling >= 1


@given(POLICIES, st.integers(1, 10_000))
def test_pauses_grow_up_to_a_bound(policy: Policy, gave_way: int) -> None:
    pause = policy.pause(gave_way)
    assert policy.first_pause <= pause <= policy.longest_pause
    assert pause <= policy.pause(gave_way + 1)
