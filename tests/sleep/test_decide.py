"""Answers of a model, taken or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lightmem_engine.sleep.decide import Decider, essentials
from lightmem_engine.sleep.parts import Part
from lightmem_engine.types import Completion, Decision, Usage
from tests.sleep.note import fact, note
from tests.support.memory import ScriptedModel

NOTES = (
    fact(0, "Ann's dog is called Rex."),
    fact(1, "Ann moved to Bonn in 2021 and owns a boat."),
    fact(2, "Ann's dog Rex is a beagle."),
    fact(3, "Ann lives in Rome."),
)
PART = Part(NOTES, {0: (2,), 1: (3,)})


def answer(*decisions: dict[str, Any]) -> str:
    return json.dumps({"decisions": list(decisions)})


async def decided(*answers: str | Completion) -> tuple[tuple[Decision, ...] | None, ScriptedModel]:
    given = iter(answers)
    model = ScriptedModel(lambda asked: next(given))
    result = await Decider(model).decide(PART)
    assert result.num_calls == len(model.asked)
    assert result.usage == Usage(10 * result.num_calls, 5 * result.num_calls)
    return result.decisions, model


async def test_every_action() -> None:
    update: dict[str, Any] = {"entry": 1, "action": "update", "by": 3, "text": "Ann's dog Rex is a beagle called Rex."}
    found, model = await decided(answer(update, {"entry": 2, "action": "supersede", "by": 4}))
    assert found == (
        Decision("e0", "update", ("e2",), "decided by the language model", "e2", (update["text"],)),
        Decision("e1", "supersede", ("e3",), "decided by the language model", "e3"),
    )
    assert "Decide: 1 2" in model.asked[0]
    texts = ["Ann moved to Bonn in 2021.", "Ann owns a boat."]
    found, _ = await decided(
        answer({"entry": 2, "action": "split", "texts": texts}, {"entry": 1, "action": "duplicate", "by": 3})
    )
    assert found is not None
    assert [(d.action, d.by, d.texts, d.rejected) for d in found] == [
        ("duplicate", "e2", (), ""),
        ("split", None, tuple(texts), ""),
    ]


async def test_what_is_not_mentioned_is_ignored_and_what_was_not_asked_is_no_decision() -> None:
    found, _ = await decided(answer({"entry": 3, "action": "supersede", "by": 4}, {"entry": 2, "action": "ignore"}))
    assert found is not None
    assert [(d.target, d.action, d.rejected) for d in found] == [("e0", "ignore", ""), ("e1", "ignore", "")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "supersede", "by": 2},  # not among its sources
        {"action": "supersede", "by": 1},
        {"action": "duplicate", "by": 99},
        {"action": "duplicate"},
        {"action": "update", "by": 3, "text": "Ann's dog is a beagle."},  # no name
        {"action": "update", "by": 3, "text": "  "},
        {"action": "update", "by": 3, "text": {"memory": "x"}},
        {"action": "split", "texts": ["Ann's dog Rex."]},
        {"action": "split", "texts": ["Ann's dog.", " "]},
        {"action": "split", "texts": ["Ann's dog.", "It is called."]},
        {"action": "split"},
    ],
)
async def test_what_cannot_be_carried_out_is_rejected(wrong: dict[str, Any]) -> None:
    found, _ = await decided(answer({"entry": 1, **wrong}))
    assert found is not None
    assert found[0].rejected
    assert found[0].texts == ()
    assert found[1].action == "ignore"


@pytest.mark.parametrize(
    "bad",
    [
        *("no json", "[]", "{}", '{"decisions": 3}', '{"decisions": ["x"]}', '{"decisions": [{"action": "ignore"}]}'),
        answer({"entry": 1, "action": "forget"}),
        Completion(answer(), "length", Usage(10, 5)),
    ],
)
async def test_an_unusable_answer_is_asked_for_once_more(bad: str | Completion) -> None:
    found, model = await decided(bad, answer({"entry": 1, "action": "duplicate", "by": 3}))
    assert found is not None
    assert found[0].action == "duplicate"
    assert "cannot be used" in model.asked[1]
    found, _ = await decided(bad, bad)
    assert found is None


async def test_the_text_of_a_turn_keeps_its_speaker() -> None:
    part = Part((note(0, "my dog is Rex"), note(1, "he is a beagle")), {0: (1,)})
    said = answer({"entry": 1, "action": "update", "by": 2, "text": "user: my dog Rex is a beagle"})
    result = await Decider(ScriptedModel(lambda asked: said)).decide(part)
    assert result.decisions is not None
    assert result.decisions[0].texts == ("user: my dog Rex is a beagle",)


async def test_a_turn_is_shown_as_it_was_said_and_a_fact_as_it_is_kept() -> None:
    turn = replace(note(0, "I work for Abel & Sons"), text="user: Abel & Sons")
    model = ScriptedModel(lambda asked: answer({"entry": 1, "action": "ignore"}))
    await Decider(model).decide(Part((turn, fact(1, "Ann's boat is red.")), {0: (1,)}))
    (shown,) = model.asked
    assert "1 [1 January 2023] user: I work for Abel & Sons\n2 [2 January 2023] Ann's boat is red." in shown


async def test_a_part_is_not_split_again() -> None:
    part = Part((fact(0, "a dog and a cat", is_part=True), fact(1, "a dog")), {0: (1,)})
    said = answer({"entry": 1, "action": "split", "texts": ["a dog", "a cat"]})
    result = await Decider(ScriptedModel(lambda asked: said)).decide(part)
    assert result.decisions is not None
    assert "already" in result.decisions[0].rejected


def test_names_and_numbers() -> None:
    text = "The boat Ida cost 4,000 euros in May; code AB12."
    assert essentials(note(0, text)) == {"ida", "4,000", "may", "ab", "12"}
