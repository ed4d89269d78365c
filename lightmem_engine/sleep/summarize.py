"""Summaries by a language model: an event becomes a prompt, the answer a text and the entries it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightmem_engine.errors import ModelError
from lightmem_engine.prompts import v1
from lightmem_engine.protocols import LanguageModel
from lightmem_engine.sleep.windows import Event
from lightmem_engine.types import Completion, Priority, Prompt, Sampling, SleepNote, Usage

_SHOWN_OF_BAD_ANSWER = 2000  # characters


@dataclass(frozen=True, slots=True)
class Summary:
    """text: None if there was no usable answer, even the second time.   cited: the entries it says it is made of."""

    text: str | None
    cited: tuple[SleepNote, ...]
    num_calls: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Summarizer:
    """Asks under the schema, at temperature 0. max_tokens: of one answer."""

    model: LanguageModel
    max_tokens: int = 1024

    async def summarize(self, event: Event) -> Summary:
        """The summary of an event. One that cites nothing of the event's own is no answer. Raises what the model
        raises."""
        messages: Sequence[Mapping[str, Any]] = v1.summarize(event.notes)
        answer = await self._ask(messages)
        usage = answer.usage
        try:
            return Summary(*_read(answer, event), 1, usage)
        except ModelError as error:
            again = await self._ask(v1.repair(messages, answer.text[:_SHOWN_OF_BAD_ANSWER], str(error)))
        usage = Usage(
            usage.prompt_tokens + again.usage.prompt_tokens,
            usage.completion_tokens + again.usage.completion_tokens,
            usage.cached_tokens + again.usage.cached_tokens,
        )
        try:
            return Summary(*_read(again, event), 2, usage)
        except ModelError:
            return Summary(None, (), 2, usage)

    async def _ask(self, messages: Sequence[Mapping[str, Any]]) -> Completion:
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0)
        prompt = Prompt(tuple(messages), v1.SUMMARY)
        return (await self.model.generate([prompt], sampling=sampling, priority=Priority.SLEEP))[0]


def _read(answer: Completion, event: Event) -> tuple[str, tuple[SleepNote, ...]]:
    """Raises `ModelError` for anything but the JSON that the schema describes."""
    if answer.finish_reason == "length":
        raise ModelError("the answer was cut off; it must be shorter")
    try:
        parsed = json.loads(answer.text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the answer is no JSON: {error}") from error
    text = parsed.get("summary") if isinstance(parsed, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ModelError('the answer has no "summary", or a blank one')
    sources = parsed.get("sources")
    if not isinstance(sources, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in sources):
        raise ModelError('the answer has no list "sources" of numbers')
    notes = event.notes
    cited = tuple(notes[number - 1] for number in sorted(set(sources)) if 1 <= number <= len(notes))
    if not set(cited).intersection(event.own):
        raise ModelError("the summary cites none of the notes it is to be about")
    return " ".join(text.split()), cited
