"""The form that asks behind a conversation: when it is chosen, and that it gives what the other form gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lightmem_engine.errors import ContextTooLong
from lightmem_engine.prompts import v1
from lightmem_engine.runtime.finished import Conversation
from lightmem_engine.short_term.behind import Behind
from lightmem_engine.short_term.extract import Extraction, Extractor
from lightmem_engine.types import Completion, Prompt, Scope, Segment, Usage
from tests.short_term.sensed import SCOPE, segment, sensed
from tests.short_term.test_extract import Answer, Scripted, facts

TOLD = "I met Bob yesterday and we walked along the river for hours. He likes green tea."
TALK = segment(
    sensed(7, TOLD, pieces=[(0, 40, "met Bob yesterday."), (41, 80, "likes tea.")]),
    sensed(8, "How lovely!", speaker="assistant", role="assistant"),
    id=4,
)
SYSTEM = {"role": "system", "content": "Be kind."}
MESSAGES: tuple[dict[str, Any], ...] = (
    SYSTEM,
    {"role": "user", "content": f"<memory>\nnotes\n</memory>\n\n{TOLD}"},
    {"role": "assistant", "content": "How lovely!"},
)


class Knowing:
    """Computes what it has not read; whatever is asked otherwise costs `other`."""

    def __init__(self, other: int | None = 1000) -> None:
        self.other = other

    async def uncached(self, prompt: Prompt, num_read: int) -> int | None:
        return 100 if num_read else self.other


async def extract(
    answer: Answer | dict[str, Answer],
    *segments: Segment,
    said: Conversation | None = Conversation(MESSAGES, 3, "salt"),  # noqa: B008  frozen
    model: Knowing | None = None,
    gone: Mapping[int, int] | None = None,
) -> tuple[Extraction, list[Prompt]]:
    def conversation(scope: Scope, session: str) -> Conversation | None:
        return said if (scope, session) == (SCOPE, "s") else None

    def answered(text: str) -> Answer:
        if isinstance(answer, dict):
            return answer["behind" if "conversation above" in text else "apart"]
        return answer

    scripted = Scripted(answered)
    behind = Behind(conversation, model or Knowing(), lambda thread: (gone or {}).get(thread, 0))
    return await Extractor(scripted, behind=behind).extract(segments or [TALK]), scripted.prompts


async def test_it_gives_the_same_facts_with_the_same_sources() -> None:
    answer = facts((1, "Ann met Bob yesterday."), (2, "The assistant was pleased."))
    behind, asked = await extract(answer, TALK)
    apart, _ = await extract(answer, TALK, said=None)
    assert behind.drafts == apart.drafts
    assert behind.num_calls == apart.num_calls == 1
    (prompt,) = asked
    assert prompt.messages[:3] == MESSAGES
    assert prompt.salt == "salt"
    assert prompt.schema == v1.bounded("flat", [TOLD, "How lovely!"])
    assert "1 [8 May 2023] Ann: I met Bob yesterday and we…" in prompt.messages[3]["content"]


async def test_a_fact_that_cites_no_turn_is_rejected() -> None:
    found, _ = await extract(facts((3, "The river is long.")))
    assert (found.drafts, found.num_rejected) == ((), 1)


def _apart(prompts: list[Prompt]) -> bool:
    return [len(prompt.messages) for prompt in prompts] == [2]


@pytest.mark.parametrize("other", [100, 99, None])
async def test_it_is_not_chosen_where_it_computes_no_less_or_nobody_knows(other: int | None) -> None:
    assert _apart((await extract(facts(), model=Knowing(other)))[1])


@pytest.mark.parametrize(
    ("thread", "gone", "apart"), [(7, 899, False), (7, 900, True), (8, 900, False), (0, 900, False)]
)
async def test_what_the_server_has_dropped_since_counts(thread: int, gone: int, apart: bool) -> None:
    said = Conversation(MESSAGES, 3, "salt", thread)
    assert _apart((await extract(facts(), said=said, gone={7: gone}))[1]) is apart


@pytest.mark.parametrize(
    "messages",
    [
        MESSAGES[:2],  # a turn is not there
        (SYSTEM, MESSAGES[2], MESSAGES[1]),  # another order
        (*MESSAGES[:2], {"role": "assistant", "content": "How lovely"}),
        (*MESSAGES[:2], {"role": "user", "content": "How lovely!"}),
        (SYSTEM, {"role": "user", "content": [{"type": "text", "text": TOLD}]}, MESSAGES[2]),
    ],
)
async def test_every_turn_must_stand_in_the_conversation(messages: tuple[dict[str, Any], ...]) -> None:
    assert _apart((await extract(facts(), said=Conversation(messages, len(messages), "salt")))[1])


async def test_turns_of_two_sessions_are_asked_apart() -> None:
    assert _apart((await extract(facts(), TALK, segment(sensed(9, "Hi", session="t"), id=5)))[1])


@pytest.mark.parametrize(
    "refusal", [ContextTooLong("too long"), "no JSON", Completion('{"facts":[', "length", Usage(10, 5, 1))]
)
async def test_where_it_fails_the_other_form_is_asked(refusal: Answer) -> None:
    found, asked = await extract({"behind": refusal, "apart": facts((1, "Ann met Bob."))})
    assert [len(prompt.messages) for prompt in asked] == [4, 2]
    assert [draft.text for draft in found.drafts] == ["Ann met Bob."]
    assert found.num_calls == (1 if isinstance(refusal, Exception) else 2)
