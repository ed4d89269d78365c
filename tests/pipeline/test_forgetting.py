"""Forgetting: out of sight, back with a rollback, and in the end gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import ConfigError
from lightmem_engine.memory import AsyncMemory
from tests.support.memory import quick_config, user

OLD = datetime(2020, 5, 8, 10, tzinfo=UTC)
NOW = datetime.now(UTC)


async def told(tmp_path: Path, *said: tuple[str, datetime], **options: Any) -> AsyncMemory:
    memory = AsyncMemory(quick_config(tmp_path, **options))
    await memory.open()
    for number, (text, when) in enumerate(said):
        message = user(text, id=f"m{number}", timestamp=when.isoformat())
        await memory.add(message, user_id="ann", session_id=f"s{number}", wait=True)
    return memory


async def found(memory: AsyncMemory, query: str = "kayak", **options: Any) -> set[str]:
    return {hit.source_ids[0] for hit in await memory.search(query, user_id="ann", **options)}


async def test_what_is_too_old_expires_and_comes_back(tmp_path: Path) -> None:
    said = (("the old kayak is red", OLD), ("the new kayak is blue", NOW))
    memory = await told(tmp_path, *said, **{"forget.expire_days": 100.0})
    before = await memory.get_all(user_id="ann")
    run = await memory.sleep(user_id="ann")
    (change,) = (await memory.sleep_run(run.id)).changes
    assert (change.action, change.after_state) == ("expire", "expired")
    assert "100 days" in change.reason
    assert await found(memory) == {"m1"}
    assert await found(memory, as_of=OLD + timedelta(days=1)) == {"m0"}, "it held then"
    assert (await memory.sleep(user_id="ann")).applied == 0
    await memory.rollback(run.id)
    assert await memory.get_all(user_id="ann") == before
    assert await found(memory) == {"m0", "m1"}
    await memory.close()


async def test_beyond_the_budget_the_least_useful_go(tmp_path: Path) -> None:
    said = (
        ("the kayak that I bought in Bergen has a carbon paddle and two hatches", OLD),
        ("kayak", OLD),
        ("well, the kayak", OLD + timedelta(days=1)),
        ("the new kayak is blue", NOW),
    )
    memory = await told(tmp_path, *said, **{"forget.max_entries": 2})
    run = await memory.sleep(user_id="ann")
    assert {change.action for change in (await memory.sleep_run(run.id)).changes} == {"archive"}
    assert await found(memory) == {"m0", "m3"}
    assert (await memory.stats(user_id="ann"))["messages"] == 4
    await memory.close()


async def test_what_is_often_said_is_worth_more(tmp_path: Path) -> None:
    again = "the kayak is red"
    said = ((again, OLD), (again, OLD + timedelta(days=1)), ("the boat is blue", OLD + timedelta(days=9)))
    memory = await told(tmp_path, *said, **{"forget.max_entries": 1})
    await memory.sleep(user_id="ann")
    (left,) = [entry for entry in await memory.get_all(user_id="ann") if entry.state == "active"]
    assert left.source_ids == ("m0", "m1")
    await memory.close()


async def test_in_the_end_it_is_gone_with_its_words(tmp_path: Path) -> None:
    said = (("the quixotic kayak", OLD), ("the new kayak is blue", NOW))
    memory = await told(tmp_path, *said, **{"forget.expire_days": 100.0, "forget.keep_days": 1e-9})
    run = await memory.sleep(user_id="ann")
    assert len(await memory.get_all(user_id="ann")) == 2, "it can still be rolled back"
    await memory.sleep(user_id="ann")
    assert len(await memory.get_all(user_id="ann")) == 1
    assert b"quixotic" not in (tmp_path / "memory.db").read_bytes()
    (change,) = (await memory.sleep_run(run.id)).changes
    assert change.before_text is None
    await memory.close()


async def test_kept_for_ever(tmp_path: Path) -> None:
    options = {"forget.expire_days": 100.0, "forget.keep_days": 0.0}
    memory = await told(tmp_path, ("the old kayak", OLD), **options)
    for _ in range(2):
        await memory.sleep(user_id="ann")
    assert [entry.state for entry in await memory.get_all(user_id="ann")] == ["expired"]
    await memory.close()


async def test_nobody_forgets_unasked(tmp_path: Path) -> None:
    memory = await told(tmp_path, ("the old kayak is red", OLD), ("the boat", NOW))
    assert (await memory.sleep(user_id="ann")).applied == 0
    assert await found(memory) == {"m0", "m1"}
    await memory.close()


async def test_with_a_half_life_the_newer_of_two_alike_comes_first(tmp_path: Path) -> None:
    said = (("the kayak is at home", OLD), ("the kayak is at work", NOW), ("the kayak is at sea", OLD))
    memory = await told(tmp_path, *said, **{"search.half_life_days": 30.0})
    assert (await memory.search("where is the kayak", user_id="ann"))[0].source_ids == ("m1",)
    then = await memory.search("where is the kayak", user_id="ann", as_of=OLD + timedelta(days=1))
    assert {hit.source_ids[0] for hit in then} == {"m0", "m2"}
    await memory.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("forget.expire_days", -1.0),
        ("forget.max_entries", -1),
        ("forget.keep_days", float("inf")),
        ("search.half_life_days", -1.0),
    ],
)
def test_impossible_limits_are_refused(tmp_path: Path, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option.partition(".")[2]):
        quick_config(tmp_path, **{option: value})
