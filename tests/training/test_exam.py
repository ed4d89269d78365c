"""The exam asks with held-out values and marks what it should."""

import json

import pytest

from lightmem_engine.training import exam
from lightmem_engine.training.chat_task import UNKNOWN
from lightmem_engine.training.evaluate import Answered, items, marks
from lightmem_engine.training.examples import LEVELS
from tests.support.process import python


def test_the_exam_is_the_same_each_time() -> None:
    assert items(0.1, "1") == items(0.1, "1")
    assert items(0.1, "1") != items(0.1, "2")


@pytest.mark.parametrize("num_lines", [10, 20])
def test_a_question_stands_among_so_many_lines_and_refusals_lack_the_answer(num_lines: int) -> None:
    for known in (True, False):
        for item in exam.questions(num_lines, 10, known=known, seed="1"):
            prompt = "\n".join(str(message["content"]) for message in item.messages)
            assert sum(line.startswith("[") for line in prompt.splitlines()) == num_lines
            assert item.wanted.endswith(UNKNOWN) != known


def test_right_answers_get_full_marks() -> None:
    found = marks([Answered(item, item.wanted, False) for item in items(0.3, "1")])
    assert {value for name, value in found.items() if not name.startswith("num_")} == {1.0}


def test_an_answer_that_was_cut_off_is_not_valid() -> None:
    some = list(exam.structured("extract", 4, seed="1", level=LEVELS[2]))
    found = marks([Answered(item, item.wanted, True) for item in some])
    assert found["facts valid"] == found["facts F1"] == 0.0


def test_a_fact_with_another_source_or_a_name_from_nowhere_does_not_count() -> None:
    wanted = '{"facts":[{"source":1,"fact":"Vessa lives in Tolmira."}]}'
    messages = [
        {"role": "user", "content": "<turns>\n[8 May 2023]\n1 Vessa: I live in Tolmira.\n2 Vessa: Hi.\n</turns>"}
    ]
    elsewhere = json.loads(wanted.replace('"source":1', '"source":2'))
    invented = json.loads(wanted.replace("Tolmira", "Denver"))
    assert exam.match_facts(elsewhere, wanted)[0] == exam.match_facts(invented, wanted)[0] == 0
    assert exam.grounded(json.loads(wanted), messages) == (1, 1)
    assert exam.grounded(elsewhere, messages) == exam.grounded(invented, messages) == (0, 1)


def test_a_decision_is_right_in_action_note_and_text_or_not_at_all() -> None:
    wanted = '{"decisions":[{"entry":1,"action":"update","by":2,"text":"A b."}]}'
    other = json.loads(wanted.replace("A b.", "A."))
    assert exam.match_decisions(json.loads(wanted), wanted) == (1, 1)
    assert exam.match_decisions(other, wanted) == (0, 1)
    assert exam.match_actions(other, wanted) == 1
    assert exam.match_actions({"decisions": []}, wanted) == 0


def test_the_exam_is_the_same_in_every_process() -> None:
    """Nothing in it follows the order of a set, which differs from process to process."""
    code = (
        "import hashlib; from lightmem_engine.training.evaluate import items;"
        "print(hashlib.sha256(repr([(i.messages, i.wanted) for i in items(0.5, 'x')]).encode()).hexdigest())"
    )
    found = {python("-c", code, env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2", "3")}
    assert len(found) == 1
    assert len(found.pop().strip()) == 64
