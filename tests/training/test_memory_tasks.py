"""Extraction and decision examples satisfy their schemas and say what their prompts say."""

import json
import random
import re
from collections import Counter
from datetime import UTC, datetime

import jsonschema
import pytest

from lightmem_engine.prompts import v1
from lightmem_engine.training.exam import grounded
from lightmem_engine.training.examples import LEVELS, Draw, Example
from lightmem_engine.training.lives import USER, Teller
from lightmem_engine.training.memory_tasks import ACTIONS, _turn
from lightmem_engine.training.tasks import example
from lightmem_engine.training.values import Values

HARD = LEVELS[-1]


def many(task: str, count: int = 80) -> list[Example]:
    return [example(task, str(i), "train", HARD) for i in range(count)]


@pytest.mark.parametrize("task", ["extract", "decide"])
def test_answers_are_compact_json_of_the_schema(task: str) -> None:
    for made in many(task):
        answer = made.messages[-1]["content"]
        value = json.loads(answer)
        assert made.schema is not None
        jsonschema.validate(value, dict(made.schema))
        assert answer == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_facts_cite_turns_in_order_and_are_grounded_in_them() -> None:
    for made in many("extract"):
        answer = json.loads(made.messages[-1]["content"])
        sources = [fact["source"] for fact in answer["facts"]]
        assert sources == sorted(sources)
        right, said = grounded(answer, made.messages[:-1])
        assert right == said


def test_prompts_are_those_of_the_engine() -> None:
    turn = v1.Numbered("user", "x", datetime(2023, 5, 8, tzinfo=UTC))
    for made in many("extract", 5):
        assert made.messages[0] == v1.extract([turn])[0]


def test_decisions_answer_exactly_the_notes_asked_about() -> None:
    for made in many("decide"):
        asked = re.findall(r"\d+", str(made.messages[1]["content"]).rpartition("Decide:")[2])
        decisions = json.loads(made.messages[-1]["content"])["decisions"]
        assert [str(decision["entry"]) for decision in decisions] == asked


def test_a_decision_names_a_newer_note() -> None:
    for made in many("decide"):
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


def test_a_speaker_with_nothing_left_to_tell_makes_small_talk() -> None:
    draw = Draw(random.Random(1), "train", LEVELS[-1])
    teller = Teller(draw.rng, Values(draw.rng, "train"), draw.level.noise)
    for _ in range(60):
        text, facts = _turn(draw, teller, [], USER, teller.days(1)[0])
        assert text
        assert facts == []
