import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest

from lightmem_engine.models.stub_lm import StubModel
from lightmem_engine.prompts import v1
from lightmem_engine.types import Completion, Priority, Prompt, Sampling

DAY = datetime(2023, 5, 8, tzinfo=UTC)
TURNS = [v1.Numbered("Ann", "I moved to Rome: nice", DAY), v1.Numbered("Bob", "2 cats", DAY)]


@dataclass(frozen=True)
class Note:
    event_time: datetime
    text: str


async def ask(prompt: Prompt, sampling: Sampling | None = None) -> Completion:
    return (await StubModel().generate([prompt], sampling=sampling or Sampling(), priority=Priority.FOREGROUND))[0]


async def test_a_chat_answer_says_that_it_is_a_stub_and_does_not_repeat_recalled_text() -> None:
    lines = ["[8 May 2023] Ann lives in Rome", "[8 May 2023] Ann has a cat"]
    messages = v1.place([{"role": "user", "content": "Where do I live?"}], block=lines[:1], hits=lines[1:])
    answer = await ask(Prompt(tuple(messages)))
    assert answer.text == "stub model: 2 notes, you said: Where do I live?"
    assert answer.finish_reason == "stop"


async def test_extraction_yields_one_fact_per_turn() -> None:
    for mode in ("flat", "event"):
        schema = v1.EXTRACT["flat" if mode == "flat" else "event"]
        answer = json.loads((await ask(Prompt(tuple(v1.extract(TURNS)), schema))).text)
        jsonschema.validate(answer, schema)
        facts = [{"source": 1, "fact": "Ann: I moved to Rome: nice"}, {"source": 2, "fact": "Bob: 2 cats"}]
        assert answer["facts"] == facts


async def test_decisions_find_exact_duplicates() -> None:
    notes = [Note(DAY, "a"), Note(DAY, "b"), Note(DAY, "a")]
    answer = json.loads((await ask(Prompt(tuple(v1.decide(notes, [1, 2])), v1.DECIDE))).text)
    jsonschema.validate(answer, v1.DECIDE)
    assert answer["decisions"] == [{"entry": 1, "action": "duplicate", "by": 3}, {"entry": 2, "action": "ignore"}]


@pytest.mark.parametrize(
    "schema",
    [
        v1.SUMMARY,
        {
            "type": "object",
            "properties": {
                "a": {"type": "array", "items": {"enum": ["x"]}, "minItems": 2},
                "b": {"anyOf": [{"type": "null"}, {"type": "string"}]},
                "c": {"type": "number", "minimum": 3},
                "d": {"type": "boolean"},
                "e": {"const": 7},
            },
            "required": ["a", "b", "c", "d", "e"],
        },
    ],
)
async def test_any_schema_gets_a_valid_answer(schema: Mapping[str, Any]) -> None:
    answer = await ask(Prompt(tuple(v1.summarize([Note(DAY, "a")])), schema))
    jsonschema.validate(json.loads(answer.text), schema)


async def test_length_and_stop_cut_the_answer() -> None:
    prompt = Prompt(({"role": "user", "content": "one two three"},))
    cut = await ask(prompt, Sampling(max_tokens=3))
    assert (cut.text, cut.finish_reason, cut.usage.completion_tokens) == ("stub model:", "length", 3)
    assert (await ask(prompt, Sampling(stop=(" two",)))).text.endswith("said: one")


async def test_the_stream_is_the_answer_in_pieces() -> None:
    prompt = Prompt(({"role": "user", "content": "one two"},))
    deltas = [d async for d in StubModel().stream(prompt, sampling=Sampling(), priority=Priority.FOREGROUND)]
    whole = await ask(prompt)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert (deltas[-1].finish_reason, deltas[-1].usage) == ("stop", whole.usage)
    assert len(deltas) > 5
