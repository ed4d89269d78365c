"""Extraction with a scripted model. Tests named `row_n` show that defect n of the reference is absent."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.models.stub_lm import StubModel
from lightmem_engine.prompts import v1
from lightmem_engine.short_term.answers import parse
from lightmem_engine.short_term.extract import Extraction, Extractor
from lightmem_engine.types import Completion, Delta, Priority, Prompt, Sampling, Segment, Source, Usage
from tests.short_term.sensed import segment, sensed

Answer = str | Completion | Exception


class Scripted:
    """A model that answers from a function of the prompt's user text, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.prompts: list[Prompt] = []
        self.samplings: list[Sampling] = []
        self.priorities: list[Priority] = []

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        self.prompts += prompts
        self.samplings.append(sampling)
        self.priorities.append(priority)
        return [self._complete(prompt) for prompt in prompts]

    def _complete(self, prompt: Prompt) -> Completion:
        answer = self.answer(prompt.messages[-1]["content"])
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, "stop", Usage(10, 5, 1)) if isinstance(answer, str) else answer

    def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncIterator[Delta]:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def facts(*items: tuple[Any, Any]) -> str:
    return json.dumps({"facts": [{"source": source, "fact": fact} for source, fact in items]})


def always(answer: Answer) -> Scripted:
    return Scripted(lambda _: answer)


async def extract(model: Scripted | StubModel, *segments: Segment, **options: Any) -> Extraction:
    return await Extractor(model, **options).extract(segments)


TEA = segment(sensed(1, "I like tea"), sensed(2, "Noted", speaker="assistant", role="assistant"), sensed(3, "And Bob"))


async def test_a_fact_keeps_id_span_time_and_speaker_of_the_turn_it_cites() -> None:
    text = "I met Bob yesterday. He likes tea."
    turn = sensed(7, text, speaker="Ann", pieces=[(0, 20, "met Bob yesterday."), (21, 34, "likes tea.")])
    result = await extract(always(facts((1, "Ann met Bob yesterday."))), segment(turn, id=4))
    (draft,) = result.drafts
    assert draft.text == "Ann met Bob yesterday (7 May 2023)."
    assert draft.sources == (Source("m7", 7, 0, 34),)
    assert (draft.kind, draft.speaker, draft.role, draft.segment, draft.session) == ("fact", "Ann", "user", 4, "s")
    assert draft.event_time == turn.turn.event_time
    assert draft.vector is None
    assert (result.num_calls, result.num_rejected, result.usage) == (1, 0, Usage(10, 5, 1))


async def test_the_model_is_asked_under_the_schema_greedily_as_background_work() -> None:
    model = always(facts())
    await extract(model, TEA, max_tokens=99)
    assert model.prompts[0].schema == v1.bounded("flat", ["I like tea", "Noted", "And Bob"])
    assert model.samplings == [Sampling(max_tokens=99, temperature=0.0)]
    assert model.priorities == [Priority.INGEST]


async def test_the_prompt_shows_compressed_turns_with_resolved_dates_and_no_system_turn() -> None:
    turns = [
        sensed(1, "secret rules", role="system"),
        sensed(2, "I really met Bob last year", pieces=[(0, 26, "met Bob year")]),
        sensed(3, "", pieces=[(0, 0, "")]),
        sensed(4, "Nice", speaker="assistant", role="assistant"),
    ]
    model = always(facts())
    await extract(model, segment(*turns))
    lines = model.prompts[0].messages[1]["content"].splitlines()
    assert lines[2:-1] == ["1 Ann: met Bob last year (2022)", "2 assistant: Nice"]


async def test_nothing_to_read_makes_no_call() -> None:
    model = always(facts())
    assert await extract(model) == Extraction()
    assert await extract(model, segment(sensed(1, "x", role="tool"))) == Extraction()
    assert model.prompts == []


@pytest.mark.parametrize("error", [BackendUnavailable("down"), ModelError("broken")])
async def test_row_3_a_failing_model_raises_its_own_error(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        await extract(always(error), TEA)


BAD = [
    "not json",
    "<think>hm</think>{}",
    "[]",
    "{}",
    '{"facts":{}}',
    '{"facts":["x"]}',
    '{"facts":[{"fact":"no source"}]}',
    '{"facts":[{"source":"1","fact":"text source"}]}',
    '{"facts":[{"source":1.0,"fact":"float source"}]}',
    '{"facts":[{"source":true,"fact":"bool source"}]}',
    '{"facts":[{"source":1}]}',
    '{"facts":[{"source":1,"fact":{"a":1}}]}',
    '{"facts":[{"source":1,"fact":"  "}]}',
]


@pytest.mark.parametrize("bad", BAD)
async def test_row_4_bad_json_is_asked_for_once_more_and_then_an_error(bad: str) -> None:
    model = always(bad)
    with pytest.raises(ModelError):
        await extract(model, TEA)
    assert len(model.prompts) == 2


@pytest.mark.parametrize("bad", BAD)
async def test_row_4_a_repaired_answer_counts(bad: str) -> None:
    model = Scripted(lambda asked: facts((1, "Ann likes tea")) if "cannot be used" in asked else bad)
    result = await extract(model, TEA)
    assert [draft.text for draft in result.drafts] == ["Ann likes tea"]
    assert (result.num_calls, result.usage) == (2, Usage(20, 10, 2))


async def test_row_5_later_prompts_cite_their_own_segments_and_turns() -> None:
    segments = [segment(sensed(n, f"word{n} word word"), id=n) for n in range(1, 6)]
    result = await extract(StubModel(), *segments, max_input_tokens=6)
    assert result.num_calls == 3
    assert [(draft.segment, draft.sources[0].message_id) for draft in result.drafts] == [
        (n, f"m{n}") for n in range(1, 6)
    ]
    assert all(f"word{n} " in draft.text for n, draft in enumerate(result.drafts, 1))


async def test_row_6_a_fact_that_cites_no_turn_is_rejected_and_counted() -> None:
    answer = facts((0, "zero"), (4, "too far"), (-1, "back"), (10**30, "far"), (3, "Ann knows Bob"))
    result = await extract(always(answer), TEA)
    assert [(draft.text, draft.sources[0].message_id) for draft in result.drafts] == [("Ann knows Bob", "m3")]
    assert result.num_rejected == 4
    assert result.num_calls == 1


async def test_row_7_consecutive_turns_of_one_side_have_numbers_of_their_own() -> None:
    turns = [sensed(n, f"fact {n}", speaker="Ann" if n % 3 else "Bob") for n in range(1, 8)]
    result = await extract(StubModel(), segment(*turns))
    assert [(d.sources[0].message_id, d.speaker, d.event_time) for d in result.drafts] == [
        (turn.turn.id, turn.turn.speaker, turn.turn.event_time) for turn in turns
    ]


async def test_a_repeated_fact_is_kept_once() -> None:
    result = await extract(always(facts((1, "Ann likes tea"), (1, "Ann likes  tea"), (2, "Ann likes tea"))), TEA)
    assert [draft.sources[0].message_id for draft in result.drafts] == ["m1", "m2"]


def cut_if_longer_than(num_turns: int) -> Scripted:
    def answer(asked: str) -> Answer:
        ordinals = range(1, len(asked.splitlines()) - 2)
        text = facts(*((n, asked.splitlines()[n + 1]) for n in ordinals))
        return Completion(text[:9], "length", Usage(1, 1)) if len(ordinals) > num_turns else text

    return Scripted(answer)


async def test_an_answer_cut_by_length_splits_the_batch() -> None:
    turns = [sensed(n, f"word{n}") for n in range(1, 9)]
    result = await extract(cut_if_longer_than(2), segment(*turns))
    assert [draft.sources[0].message_id for draft in result.drafts] == [f"m{n}" for n in range(1, 9)]
    assert result.num_calls == 1 + 2 + 4


async def test_one_turn_that_is_too_long_is_split_at_its_pieces() -> None:
    text = "one two three four"
    pieces = [(0, 3, "one"), (4, 7, "two"), (8, 13, "three"), (14, 18, "four")]

    def answer(asked: str) -> Answer:
        words = asked.splitlines()[2].split()[2:]
        return Completion("{", "length", Usage()) if len(words) > 1 else facts((1, words[0]))

    result = await extract(Scripted(answer), segment(sensed(1, text, pieces=pieces)))
    assert [(d.text, d.sources[0].start, d.sources[0].end) for d in result.drafts] == [
        ("one", 0, 3),
        ("two", 4, 7),
        ("three", 8, 13),
        ("four", 14, 18),
    ]


async def test_what_cannot_be_split_is_asked_once_more_and_then_an_error() -> None:
    model = always(Completion("{", "length", Usage(1, 50)))
    with pytest.raises(ModelError, match="cut off after 50 tokens"):
        await extract(model, segment(sensed(1, "x")))
    assert len(model.prompts) == 2


async def test_a_prompt_beyond_the_context_is_split() -> None:
    def answer(asked: str) -> Answer:
        num_turns = len(asked.splitlines()) - 3
        return InvalidInput("too long") if num_turns > 1 else facts((1, "fact"))

    result = await extract(Scripted(answer), segment(*(sensed(n, f"w{n}") for n in range(1, 5))))
    assert [draft.sources[0].message_id for draft in result.drafts] == ["m1", "m2", "m3", "m4"]
    with pytest.raises(InvalidInput):
        await extract(always(InvalidInput("too long")), segment(sensed(1, "x")))


async def test_long_segments_are_packed_to_the_input_budget() -> None:
    pieces = [(0, 5, "a b c"), (5, 9, "d e f"), (9, 13, "g h i")]
    turns = [sensed(1, "x " * 10, pieces=pieces), sensed(2, "y")]
    model = always(facts())
    await extract(model, segment(*turns), max_input_tokens=4)
    shown = [prompt.messages[1]["content"].splitlines()[2:-1] for prompt in model.prompts]
    assert shown == [["1 Ann: a b c"], ["1 Ann: d e f"], ["1 Ann: g h i", "2 Ann: y"]]


def test_event_answers_carry_relations_and_entities_of_the_same_turn() -> None:
    answer = {
        "facts": [{"source": 1, "fact": "Ann moved to Rome."}],
        "relations": [{"source": 1, "subject": "Bob", "relation": "supports", "object": "Ann"}],
        "entities": [
            {"source": 1, "name": "Rome", "type": "place"},
            {"source": 1, "name": "Rome", "type": "place"},
            {"source": 2, "name": "Cleo", "type": "person"},
        ],
    }
    fact, relation = parse(json.dumps(answer), "event")
    assert (fact.kind, fact.text, fact.entities) == ("fact", "Ann moved to Rome.", ("Rome",))
    assert (relation.kind, relation.text) == ("relation", "Bob supports Ann")
    assert relation.parts == (("subject", "Bob"), ("relation", "supports"), ("object", "Ann"))


async def test_event_drafts_keep_the_parts_of_a_relation() -> None:
    answer = {
        "facts": [],
        "relations": [{"source": 1, "subject": "Bob", "relation": "supports", "object": "Ann"}],
        "entities": [{"source": 1, "name": "Bob", "type": "person"}],
    }
    (draft,) = (await extract(always(json.dumps(answer)), TEA, mode="event")).drafts
    assert draft.kind == "relation"
    assert draft.metadata == {"n": 1, "subject": "Bob", "relation": "supports", "object": "Ann", "entities": ["Bob"]}
