"""Decisions by a language model: a part becomes a prompt, the answer decisions, or reasons why they are rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lightmem_engine.errors import ModelError
from lightmem_engine.prompts import v1
from lightmem_engine.protocols import LanguageModel
from lightmem_engine.sleep.parts import Part
from lightmem_engine.text import STOPWORDS
from lightmem_engine.types import Completion, Decision, Priority, Prompt, Sampling, SleepNote, Usage

_SHOWN_OF_BAD_ANSWER = 2000  # characters
_ACTIONS = frozenset(("ignore", "update", "supersede", "duplicate", "split"))
_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+|[^\W_]+")
REASON = "decided by the language model"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one part. decisions: None if there was no usable answer, even the second time."""

    decisions: tuple[Decision, ...] | None
    num_calls: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class _Line:
    """A note as it is shown to be decided about: a turn in the words that were said, not in those that are left of
    them, because whether one thing corrects another often hangs on what compression takes for granted."""

    note: SleepNote

    @property
    def event_time(self) -> datetime:
        return self.note.event_time

    @property
    def text(self) -> str:
        note = self.note
        return f"{note.speaker}: {note.words}" if note.kind == "turn" else note.text


@dataclass(frozen=True, slots=True)
class Decider:
    """Asks under the schema, at temperature 0. max_tokens: of one answer."""

    model: LanguageModel
    max_tokens: int = 1024

    async def decide(self, part: Part) -> Answer:
        """One decision for each target; what the answer leaves out is ignored. Raises what the model raises."""
        lines = [_Line(note) for note in part.notes]
        messages: Sequence[Mapping[str, Any]] = v1.decide(lines, [target + 1 for target in part.sources])
        answer = await self._ask(messages)
        usage = answer.usage
        try:
            return Answer(_decisions(answer, part), 1, usage)
        except ModelError as error:
            again = await self._ask(v1.repair(messages, answer.text[:_SHOWN_OF_BAD_ANSWER], str(error)))
        usage = Usage(
            usage.prompt_tokens + again.usage.prompt_tokens,
            usage.completion_tokens + again.usage.completion_tokens,
            usage.cached_tokens + again.usage.cached_tokens,
        )
        try:
            return Answer(_decisions(again, part), 2, usage)
        except ModelError:
            return Answer(None, 2, usage)

    async def _ask(self, messages: Sequence[Mapping[str, Any]]) -> Completion:
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0)
        prompt = Prompt(tuple(messages), v1.DECIDE)
        return (await self.model.generate([prompt], sampling=sampling, priority=Priority.SLEEP))[0]


def _decisions(answer: Completion, part: Part) -> tuple[Decision, ...]:
    """Raises `ModelError` for anything but the JSON that the schema describes."""
    if answer.finish_reason == "length":
        raise ModelError("the answer was cut off; it must be shorter")
    try:
        parsed = json.loads(answer.text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the answer is no JSON: {error}") from error
    items = parsed.get("decisions") if isinstance(parsed, dict) else None
    if not isinstance(items, list):
        raise ModelError('the answer has no list "decisions"')
    said: dict[int, Mapping[str, Any]] = {}
    for item in items:
        if not isinstance(item, dict) or item.get("action") not in _ACTIONS or not _is_number(item.get("entry")):
            raise ModelError('every decision needs "entry", a number, and a known "action"')
        said.setdefault(item["entry"] - 1, item)
    return tuple(_decision(part, target, said.get(target)) for target in part.sources)


def _decision(part: Part, target: int, item: Mapping[str, Any] | None) -> Decision:
    note = part.notes[target]
    sources = tuple(part.notes[source].id for source in part.sources[target])
    if item is None or item["action"] == "ignore":
        return Decision(note.id, "ignore", sources, REASON if item else "the answer did not mention it")
    action = item["action"]
    if action == "split":
        texts, why = _parts(note, item.get("texts"))
        return Decision(note.id, action, sources, REASON, texts=texts, rejected=why)
    by = item["by"] - 1 if _is_number(item.get("by")) else -1
    if by not in part.sources[target]:
        why = "the newer entry it names is none of those it could be compared with"
        return Decision(note.id, action, sources, REASON, rejected=why)
    source = part.notes[by]
    if action != "update":
        return Decision(note.id, action, sources, REASON, source.id)
    text, why = _merged(note, source, item.get("text"))
    return Decision(note.id, action, sources, REASON, source.id, (text,) if text else (), rejected=why)


def _merged(target: SleepNote, source: SleepNote, text: Any) -> tuple[str, str]:
    """The text of an update as it is stored, or why it cannot be."""
    words = _line(target, text)
    if not words:
        return "", "the text of the update is blank"
    lost = (essentials(target) | essentials(source)) - _tokens(words)
    if lost:
        return "", "the merged text leaves out names or numbers"
    return (f"{target.speaker}: {words}" if target.kind == "turn" else words), ""


def _parts(target: SleepNote, texts: Any) -> tuple[tuple[str, ...], str]:
    """The texts of a split as they are stored, or why they cannot be."""
    found = [_line(target, text) for text in texts] if isinstance(texts, list) else []
    if len(found) < 2 or not all(found) or len(set(found)) < len(found):
        return (), "a split needs two different texts or more, none of them blank"
    if target.is_part:
        return (), "it was split off another entry already"
    if essentials(target) - set().union(*map(_tokens, found)):
        return (), "the parts leave out names or numbers"
    return tuple(found), ""


def _line(note: SleepNote, text: Any) -> str:
    """A text on one line, without the speaker that a turn is shown with."""
    words = " ".join(text.split()) if isinstance(text, str) else ""
    return words.removeprefix(f"{note.speaker}: ") if note.kind == "turn" else words


def essentials(note: SleepNote) -> set[str]:
    """Names and numbers of an entry: capitalised words that are no stop words, and all with a digit, lower-cased."""
    text = note.text.removeprefix(f"{note.speaker}: ") if note.kind == "turn" else note.text
    tokens = [match.group() for match in _TOKEN.finditer(text)]
    return {
        token.casefold()
        for token in tokens
        if any(map(str.isdigit, token)) or (token[0].isupper() and token.casefold() not in STOPWORDS)
    }


def _tokens(text: str) -> set[str]:
    return {match.group().casefold() for match in _TOKEN.finditer(text)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
