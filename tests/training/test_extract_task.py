"""Examples of extraction satisfy their schema and say what their prompts say."""

import json
import random
from datetime import UTC, datetime

from lightmem_engine.prompts import v1
from lightmem_engine.training.exam import grounded
from lightmem_engine.training.examples import LEVELS, Draw
from lightmem_engine.training.extract_task import _turn
from lightmem_engine.training.lives import USER, Teller
from lightmem_engine.training.values import Values
from tests.training.examples import check_compact, many


def test_answers_are_compact_json_of_the_schema() -> None:
    check_compact("extract")


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


def test_a_speaker_with_nothing_left_to_tell_makes_small_talk() -> None:
    draw = Draw(random.Random(1), "train", LEVELS[-1])
    teller = Teller(draw.rng, Values(draw.rng, "train"), draw.level.noise)
    for _ in range(60):
        text, facts = _turn(draw, teller, [], USER, teller.days(1)[0])
        assert text
        assert facts == []
