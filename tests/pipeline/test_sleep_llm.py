"""Runs of sleep that ask a model: what is asked, how often, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import BackendUnavailable
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.types import Completion, Priority, Prompt, Sampling, Scope
from tests.support.memory import ScriptedModel, eventually, quick_config, use_model, user

LLM = {
    "sleep.mode": "llm",
    "sleep.threshold": 0.3,
    "sleep.max_notes": 2,
    "compress.rate": 1.0,
    "runtime.max_attempts": 2,
}


def config(path: Path, **options: Any) -> Any:
    return quick_config(path, **(LLM | options))


def last_wins(asked: str) -> str:
    """Supersede every target by the newest note."""
    last = max(map(int, re.findall(r"^(\d+) \[", asked, re.MULTILINE)))
    targets = map(int, asked.rpartition("Decide: ")[2].split())
    return answer(*({"entry": target, "action": "supersede", "by": last} for target in targets))


def answer(*decisions: dict[str, Any]) -> str:
    return json.dumps({"decisions": list(decisions)})


async def tell(memory: AsyncMemory, *contents: str, user_id: str = "ann", first: int = 1) -> None:
    said = [
        user(content, id=f"m{n}", timestamp=f"2023-01-{n:02}T10:00:00Z") for n, content in enumerate(contents, first)
    ]
    await memory.add(said, user_id=user_id, session_id="s", wait=True)


async def states(memory: AsyncMemory) -> list[str]:
    return [f"{entry.state}: {entry.text}" for entry in await memory.get_all(user_id="ann")]


def pairs(count: int) -> list[str]:
    """Twice as many statements, the later half about the same things as the first."""
    things = ["kayak", "violin", "parrot", "kettle", "garden", "scooter", "blanket", "lantern", "teapot", "carpet"]
    return [f"the {things[n % count]} {things[n % count]} {things[n % count]} {n}" for n in range(2 * count)]


async def test_decisions_of_the_model_are_carried_out_and_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = use_model(monkeypatch, last_wins)
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(3))
        run = await memory.sleep(user_id="ann")
        assert (run.state, run.mode, run.applied, run.calls, run.undecided) == ("done", "llm", 3, 3, 0)
        assert (run.prompt_tokens, run.completion_tokens) == (30, 15)
        assert [state.split(":")[0] for state in await states(memory)] == ["superseded"] * 3 + ["active"] * 3
        assert (await memory.stats())["usage"]["sleep"]["calls"] == 3
        for _ in range(2):
            assert (await memory.sleep()).calls == 0
        assert len(model.asked) == 3
        await memory.rollback(run.id)
        assert (await memory.sleep()).calls == 0, "what was rolled back is not asked again"


async def test_what_was_ignored_is_not_asked_again_and_what_is_new_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = use_model(monkeypatch, lambda asked: answer())
    async with AsyncMemory(config(tmp_path, **{"sleep.max_notes": 3})) as memory:
        await tell(memory, *pairs(2))
        assert (await memory.sleep()).calls == 2
        assert (await memory.sleep()).calls == 0
        await tell(memory, "the kayak kayak kayak 99", first=9)
        run = await memory.sleep()
        assert (run.calls, run.pairs) == (1, 2)
        assert "violin" not in model.asked[-1]


async def test_a_merged_text_is_embedded_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def merge(asked: str) -> str:
        if "Decide: 1\n" not in f"{asked}\n":
            return answer()
        text = "my dog dog Rex Rex is a beagle from Bonn"
        return answer({"entry": 1, "action": "update", "by": 2, "text": text})

    use_model(monkeypatch, merge)
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, "my dog dog is Rex Rex", "my dog dog Rex Rex is from Bonn")
        run = await memory.sleep(user_id="ann")
        assert (run.applied, run.rejected) == (2, 0)
        (hit,) = await memory.search("beagle", user_id="ann")
        assert (hit.text, hit.source_ids) == ("user: my dog dog Rex Rex is a beagle from Bonn", ("m1", "m2"))
        assert (await memory.sleep()).calls == 0


async def test_claims_about_the_same_thing_are_asked_about_however_unlike_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = use_model(monkeypatch, last_wins)
    async with AsyncMemory(config(tmp_path, **{"sleep.threshold": 1.0})) as memory:
        await tell(memory, "I live in Rotterdam.", "The kettle is red.", "My home is in Rome.")
        run = await memory.sleep()
        assert (run.calls, run.pairs, run.applied) == (1, 1, 1)
        assert "kettle" not in model.asked[0]


async def test_words_that_are_the_same_need_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = use_model(monkeypatch, last_wins)
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, "the kayak is red", "The kayak is red!", "How red is the kayak?")
        run = await memory.sleep()
        assert (run.applied, run.calls, model.asked) == (2, 0, [])


@pytest.mark.parametrize("bad", ["no json", '{"decisions": [{"entry": "x"}]}'])
async def test_a_bad_answer_leaves_its_pairs_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    model = use_model(
        monkeypatch, lambda asked: bad if "kayak" in asked or "cannot be used" in asked else last_wins(asked)
    )
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(2))
        run = await memory.sleep()
        assert (run.state, run.applied, run.undecided, run.calls) == ("done", 1, 1, 3)
        model.answer = last_wins
        run = await memory.sleep()
        assert (run.applied, run.undecided, run.calls) == (1, 0, 1)
        assert (await memory.sleep()).calls == 0


async def test_a_rejected_decision_changes_nothing_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(monkeypatch, lambda asked: answer({"entry": 1, "action": "update", "by": 2, "text": "something"}))
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, "the kayak kayak is called Ida", "the kayak kayak is 7 years old")
        before = await memory.get_all(user_id="ann")
        run = await memory.sleep()
        assert (run.applied, run.rejected) == (0, 1)
        assert await memory.get_all(user_id="ann") == before
        assert (await memory.sleep()).calls == 0


@pytest.mark.parametrize("limit", [{"max_calls": 2}, {"max_tokens": 30}])
async def test_a_budget_ends_a_run_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]
) -> None:
    use_model(monkeypatch, last_wins)
    async with AsyncMemory(config(tmp_path, **{"runtime.max_background": 1})) as memory:
        await tell(memory, *pairs(5))
        run = await memory.sleep(user_id="ann", **limit)
        assert (run.state, run.calls, run.applied, run.undecided) == ("stopped", 2, 2, 3)
        run = await memory.sleep(user_id="ann", **limit)
        assert (run.state, run.calls, run.applied) == ("stopped", 2, 2)
        run = await memory.sleep(user_id="ann", **limit)
        assert (run.state, run.calls, run.applied) == ("done", 1, 1)
        assert (await memory.sleep()).calls == 0


async def test_an_unreachable_model_stops_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = use_model(monkeypatch, lambda asked: BackendUnavailable("nobody answers"))
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(2))
        run = await memory.sleep()
        assert (run.state, run.applied) == ("stopped", 0)
        assert run.error == "BackendUnavailable"
        model.answer = last_wins
        assert (await memory.sleep()).applied == 2


async def test_a_failure_that_nobody_expects_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, lambda asked: RuntimeError("secret words"))
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(1))
        run = await memory.sleep()
        assert (run.state, run.error) == ("failed", "RuntimeError")


class Slow(ScriptedModel):
    """Holds every answer until it is let go."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(answer)
        self.go = asyncio.Event()
        self.in_flight = self.most = 0
        self.priorities: set[Priority] = set()

    async def generate(self, prompts: Any, *, sampling: Sampling, priority: Priority) -> list[Completion]:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self.priorities.add(priority)
        await self.go.wait()
        self.in_flight -= 1
        return await super().generate(prompts, sampling=sampling, priority=priority)


def use_slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    from lightmem_engine import assemble

    model = Slow(last_wins)
    monkeypatch.setattr(assemble, "load_lm", lambda *_: model)
    return model


async def test_calls_run_side_by_side_at_the_lowest_priority_and_wait_for_the_foreground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = use_slow(monkeypatch)
    async with AsyncMemory(config(tmp_path, **{"runtime.max_background": 3})) as memory:
        await tell(memory, *pairs(5))
        async with memory.engine.foreground():
            run = await memory.sleep(wait=False)
            await asyncio.sleep(0.1)
            assert model.in_flight == 0

        async def busy() -> bool:
            return model.in_flight == 3

        await eventually(busy)
        model.go.set()

        async def done() -> bool:
            return (await memory.sleep_run(run.id)).run.state == "done"

        await eventually(done)
        assert (model.most, model.priorities) == (3, {Priority.SLEEP})


async def test_an_entry_that_changes_meanwhile_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = use_slow(monkeypatch)
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(1))
        run = await memory.sleep(wait=False)

        async def asked() -> bool:
            return model.in_flight == 1

        await eventually(asked)
        newer = (await memory.get_all(user_id="ann"))[1]
        await memory.update(newer.id, user_id="ann", text="user: the kayak kayak kayak is green")
        model.go.set()

        async def done() -> bool:
            return (await memory.sleep_run(run.id)).run.state == "done"

        await eventually(done)
        report = await memory.sleep_run(run.id)
        assert (report.run.stale, report.run.applied, report.run.calls) == (1, 1, 2)
        assert "green" in model.asked[-1]


async def test_of_a_user_erased_meanwhile_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = use_slow(monkeypatch)
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(1))
        await memory.sleep(user_id="ann", wait=False)

        async def asked() -> bool:
            return model.in_flight == 1

        await eventually(asked)
        await memory.delete_all(user_id="ann")
        model.go.set()
        assert (await memory.sleep(user_id="ann")).pairs == 0  # after the one that was under way
        assert await memory.delete_all(user_id="ann") == {"messages": 0, "entries": 0, "rows": 1}, "only the last run"


async def test_shared_instructions_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Prompt] = []

    class Recording(ScriptedModel):
        async def generate(self, prompts: Any, *, sampling: Sampling, priority: Priority) -> list[Completion]:
            seen.extend(prompts)
            return await super().generate(prompts, sampling=sampling, priority=priority)

    from lightmem_engine import assemble

    monkeypatch.setattr(assemble, "load_lm", lambda *_: Recording(last_wins))
    async with AsyncMemory(config(tmp_path)) as memory:
        await tell(memory, *pairs(3))
        await memory.sleep()
        assert len({str(prompt.messages[0]) for prompt in seen}) == 1
        assert all(prompt.schema is not None for prompt in seen)
        assert await memory.engine.everything(Scope("ann"))
