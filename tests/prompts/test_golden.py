"""The prompts, character by character. A change here is a new prompt version, never an edit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lightmem_engine.prompts import v1

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"


@dataclass(frozen=True)
class Note:
    event_time: datetime
    text: str


MAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
JUNE = datetime(2023, 6, 9, 19, 55, tzinfo=UTC)
NOTES = [
    Note(MAY, "Caroline: went LGBTQ support group yesterday (7 May 2023)"),
    Note(JUNE, "Caroline: gave talk at school last week (the week before 9 June 2023)"),
]
TURNS = [
    v1.Numbered("Caroline", "I went to the LGBTQ support group yesterday (7 May 2023) and it was so powerful.", MAY),
    v1.Numbered("Melanie", "Wow! I painted a lake sunrise last year (2022).", MAY),
    v1.Numbered("Caroline", "My school event was last week (the week before 9 June 2023).", JUNE),
]
HISTORY: list[Mapping[str, Any]] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": "Hello Caroline."},
    {"role": "user", "content": "When did I give my talk?"},
]


def _chat() -> list[dict[str, Any]]:
    lines = [v1.memory_line(note) for note in NOTES]
    return v1.place(HISTORY, block=lines[:1], replayed={1: v1.memory_text(lines[:1], MAY)}, hits=lines[1:], today=JUNE)


CASES: dict[str, list[dict[str, Any]]] = {
    "chat": _chat(),
    "extract_flat": list(v1.extract(TURNS)),
    "extract_event": list(v1.extract(TURNS, "event")),
    "extract_flat_after": v1.extract_after(HISTORY[1:3], TURNS),
    "extract_event_after": v1.extract_after(HISTORY[1:3], TURNS, "event"),
    "extract_repair": v1.repair(v1.extract(TURNS), '{"facts": [', "facts is not closed"),
    "decide": list(v1.decide(NOTES, [1])),
    "summary": list(v1.summarize(NOTES)),
}


def rendered(messages: list[dict[str, Any]]) -> str:
    return "".join(f"=== {message['role']}\n{message['content']}\n" for message in messages)


@pytest.mark.parametrize("name", CASES)
def test_rendering_is_the_checked_in_one(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    assert rendered(CASES[name]) == path.read_text("utf-8")


def test_every_golden_file_is_rendered_by_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def test_the_example_inside_each_instruction_satisfies_its_schema() -> None:
    pairs = [
        ("extract_flat", v1.EXTRACT["flat"]),
        ("extract_event", v1.EXTRACT["event"]),
        ("decide", v1.DECIDE),
        ("summary", v1.SUMMARY),
    ]
    for name, schema in pairs:
        instruction = CASES[name][0]["content"]
        example = json.loads(instruction[instruction.index("JSON: ") + 6 :])
        jsonschema.validate(example, schema)


if __name__ == "__main__":  # writes the files, for a new version of the prompts
    for case, messages in CASES.items():
        (GOLDEN / f"{case}.txt").write_text(rendered(messages), "utf-8")
