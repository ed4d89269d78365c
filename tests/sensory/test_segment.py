"""Live decisions: once, early enough, and the same however the turns arrive."""

from __future__ import annotations

import numpy as np
import pytest

from lightmem_engine.config_sensory import SegmentConfig
from lightmem_engine.sensory import segment
from lightmem_engine.sensory.segment import TurnSignal, decide, document_boundaries, unit_starts
from lightmem_engine.types import Role

CONFIG = SegmentConfig()


def turn(role: Role, vector: np.ndarray, *, speaker: str = "", mass: float = 0.3) -> TurnSignal:
    return TurnSignal(role, speaker or role, np.asarray(vector / np.linalg.norm(vector), np.float32), mass, mass)


def session(lengths: list[int], *, people: bool = False, seed: int = 0) -> list[TurnSignal]:
    """Topics of so many units; a unit is a question and its answer, or one of two people's turns."""
    random = np.random.default_rng(seed)
    turns = []
    for length in lengths:
        topic = random.standard_normal(48)
        for i in range(length):
            for role in ("user", "assistant"):
                speaker = ("Ada", "Bob")[role == "assistant"] if people else ""
                if people and role == "assistant" and i == length - 1:
                    continue
                vector = topic + 0.7 * random.standard_normal(48)
                turns.append(turn(role, vector, speaker=speaker, mass=float(random.uniform(0.1, 0.6))))
    return turns


def fed(turns: list[TurnSignal], sizes: list[int], config: SegmentConfig = CONFIG) -> list[int]:
    """Boundaries found when turns arrive in batches, state being nothing but how far the gaps are decided."""
    found: list[int] = []
    arrived, decided = 0, 1
    while arrived < len(turns):
        arrived = min(len(turns), arrived + sizes[arrived % len(sizes)])
        decision = decide(turns[:arrived], config, decided=decided)
        assert decision.decided >= decided
        assert all(decided <= b < decision.decided for b in decision.boundaries)
        found += decision.boundaries
        decided = decision.decided
    last = decide(turns, config, decided=decided, final=True)
    assert last.decided == len(turns)
    return found + list(last.boundaries)


def test_a_unit_is_a_turn_with_the_replies_to_it() -> None:
    v = np.ones(4)
    roles: list[Role] = ["assistant", "user", "assistant", "tool", "assistant", "user", "user", "system", "assistant"]
    assert unit_starts([turn(role, v) for role in roles]) == [0, 1, 5, 6, 7]
    named = [turn("user", v, speaker="Ada"), turn("assistant", v, speaker="Bob"), turn("user", v, speaker="Ada")]
    assert unit_starts(named) == [0, 1, 2]
    assert unit_starts([]) == []


@pytest.mark.parametrize("people", [False, True], ids=["dialogue", "people"])
@pytest.mark.parametrize("mode", ["hybrid", "paper"])
def test_batches_do_not_matter(people: bool, mode: str) -> None:
    config = SegmentConfig(mode=mode)  # type: ignore[arg-type]
    turns = session([5, 8, 4, 9, 6], people=people)
    one_by_one = fed(turns, [1], config)
    assert one_by_one
    for sizes in ([2], [3, 1, 7], [11], [1000]):
        assert fed(turns, sizes, config) == one_by_one


def test_clear_topics_are_found_live_and_in_hindsight() -> None:
    lengths = [7, 6, 9, 8, 7]
    turns = session(lengths, seed=3)
    begins = [2 * int(unit) for unit in np.cumsum(lengths[:-1])]
    assert document_boundaries(turns, CONFIG) == begins
    assert fed(turns, [1]) == begins


def test_a_gap_is_decided_when_the_look_ahead_is_complete_and_not_before() -> None:
    turns = session([5, 5], seed=1)
    lookahead = SegmentConfig(lookahead=2)
    # The gap before the unit at turn 4 needs the units at 4 and 6, whose end shows when turn 8 begins the next.
    assert decide(turns[:8], lookahead).decided == 3
    assert decide(turns[:9], lookahead).decided == 5


def test_final_settles_everything_once() -> None:
    turns = session([6, 6], seed=2)
    first = decide(turns, CONFIG, final=True)
    again = decide(turns, CONFIG, decided=first.decided, final=True)
    assert first.decided == again.decided == len(turns)
    assert again.boundaries == ()


def test_older_turns_than_the_history_do_not_matter() -> None:
    turns = session([9, 11, 8, 12, 10, 9, 13, 8, 11, 10], seed=4)
    assert len(turns) > segment.HISTORY + 40
    whole = fed(turns, [1])
    decided, found = 1, []
    for arrived in range(1, len(turns) + 1):
        dropped = max(0, decided - segment.HISTORY - 1)
        decision = decide(turns[dropped:arrived], CONFIG, decided=decided - dropped, final=arrived == len(turns))
        found += [b + dropped for b in decision.boundaries]
        decided = decision.decided + dropped
    assert found == whole


def test_missing_attention_is_tolerated() -> None:
    turns = [TurnSignal(t.role, t.speaker, t.vector, float("nan"), float("nan")) for t in session([6, 7], seed=5)]
    assert fed(turns, [1]) == [12]


@pytest.mark.parametrize("num_turns", [0, 1, 2, 3])
def test_short_sessions(num_turns: int) -> None:
    turns = session([3], seed=6)[:num_turns]
    decision = decide(turns, CONFIG, final=True)
    assert decision.decided == num_turns
    assert set(document_boundaries(turns, CONFIG)) <= {2}
