"""Examples at the hardest level, and what holds for every answer in JSON."""

import json

import jsonschema

from lightmem_engine.training.examples import LEVELS, Example
from lightmem_engine.training.tasks import example

HARD = LEVELS[-1]


def many(task: str, count: int = 80) -> list[Example]:
    """The first examples of a task."""
    return [example(task, str(i), "train", HARD) for i in range(count)]


def check_compact(task: str) -> None:
    """Answers satisfy the schema and are written as the grammar forces them."""
    for made in many(task):
        answer = made.messages[-1]["content"]
        value = json.loads(answer)
        assert made.schema is not None
        jsonschema.validate(value, dict(made.schema))
        assert answer == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
