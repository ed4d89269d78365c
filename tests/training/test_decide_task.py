"""Examples of decisions satisfy their schema and say what their prompts say."""

import json
import random
import re
from collections import Counter

import pytest

from lightmem_engine.training.decide_task import ACTIONS
from lightmem_engine.training.examples import LEVELS, Draw
from lightmem_engine.training.lives import Teller
from lightmem_engine.training.look_alikes import told
from lightmem_engine.training.values import Values
from tests.training.examples import check_compact, many

TASKS = ("decide", "alike")


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_compact_json_of_the_schema(task: str) -> None:
    check_compact(task)


@pytest.mark.parametrize("task", TASKS)
def test_decisions_answer_exactly_the_notes_asked_about(task: str) -> None:
    for made in many(task):
        asked = re.findall(r"\d+", str(made.messages[1]["content"]).rpartition("Decide:")[2])
        decisions = json.loads(made.messages[-1]["content"])["decisions"]
        assert [str(decision["entry"]) for decision in decisions] == asked


@pytest.mark.parametrize("task", TASKS)
def test_a_decision_names_a_newer_note(task: str) -> None:
    for made in many(task):
        for decision in json.loads(made.messages[-1]["content"])["decisions"]:
            assert decision.get("by", decision["entry"] + 1) > decision["entry"]


def test_a_split_note_is_its_parts_and_an_updated_one_keeps_its_beginning() -> None:
    seen = set()
    for made in many("decide", 200):
        lines = str(made.messages[1]["content"]).splitlines()
        for decision in json.loads(made.messages[-1]["content"])["decisions"]:
            note = lines[decision["entry"]].partition("] ")[2]
            if decision["action"] == "split":
                assert " ".join(decision["texts"]) == note
            if decision["action"] == "update":
                assert decision["text"].startswith(note.removesuffix("."))
            seen.add(decision["action"])
    assert seen == set(ACTIONS)


def test_no_action_is_rare() -> None:
    answers = [json.loads(made.messages[-1]["content"]) for made in many("decide", 400)]
    actions = Counter(decision["action"] for answer in answers for decision in answer["decisions"])
    assert min(actions[action] for action in ACTIONS) > 0.05 * actions.total()


def test_look_alikes_stand_as_often_as_not() -> None:
    answers = [json.loads(made.messages[-1]["content"]) for made in many("alike", 400)]
    actions = Counter(decision["action"] for answer in answers for decision in answer["decisions"])
    assert set(actions) == {"ignore", "supersede", "duplicate"}
    assert 0.4 < actions["ignore"] / actions.total() < 0.8


def test_a_look_alike_is_superseded_only_by_the_same_thing_with_another_value() -> None:
    draw = Draw(random.Random(3), "held_out", LEVELS[-1])
    seen = set()
    for _ in range(200):
        notes = told(draw, Teller(draw.rng, Values(draw.rng, "held_out"), 0.5), 5)
        assert [one.note.event_time for one in notes] == sorted(one.note.event_time for one in notes)
        for place, one in enumerate(notes):
            same = [
                later for later in notes[place + 1 :] if later.note.key == one.note.key and one.note.key is not None
            ]
            assert one.newer is (same[0] if same else None)
            if one.newer is not None:
                assert (one.newer.note.value == one.note.value) == (one.fate == "duplicate")
            seen.add(one.fate)
    assert seen == {"ignore", "supersede", "duplicate"}
