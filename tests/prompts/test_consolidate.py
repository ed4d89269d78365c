from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.prompts.v1 import decide, summarize


@dataclass(frozen=True)
class Note:
    event_time: datetime
    text: str


OLD = Note(datetime(2023, 5, 8, tzinfo=UTC), "Ann lives in Boston.")
NEW = Note(datetime(2023, 6, 9, tzinfo=UTC), "Ann lives in\nDenver.")


def test_entries_are_numbered_oldest_first_and_targets_named() -> None:
    user = decide([OLD, NEW], [1, 2])[1]["content"]
    assert user.splitlines() == [
        "<entries>",
        "1 [8 May 2023] Ann lives in Boston.",
        "2 [9 June 2023] Ann lives in Denver.",
        "</entries>",
        "Decide: 1 2",
    ]


@pytest.mark.parametrize("target", [0, 3, -1])
def test_a_target_that_is_no_entry_is_refused(target: int) -> None:
    with pytest.raises(InvalidInput, match="ordinals from 1 to 2"):
        decide([OLD, NEW], [target])


def test_entries_out_of_order_are_refused() -> None:
    with pytest.raises(InvalidInput, match="order of event time"):
        decide([NEW, OLD], [1])


def test_the_instruction_is_the_same_for_every_group() -> None:
    assert decide([OLD], [1])[0] == decide([OLD, NEW], [2])[0]
    assert summarize([OLD])[0] == summarize([OLD, NEW])[0]
