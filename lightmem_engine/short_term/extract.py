"""Entries by a language model: segments to prompts, answers to drafts that cite their messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightmem_engine.errors import InvalidInput, ModelError
from lightmem_engine.prompts import v1
from lightmem_engine.protocols import LanguageModel
from lightmem_engine.protocols_kv import ReadsAhead
from lightmem_engine.short_term.answers import Said, parse
from lightmem_engine.short_term.behind import Behind
from lightmem_engine.short_term.dates import resolve
from lightmem_engine.short_term.extractive import dated_texts
from lightmem_engine.types import (
    CacheOwner,
    Completion,
    EntryDraft,
    Piece,
    Priority,
    Prompt,
    Sampling,
    Scope,
    Segment,
    SensedTurn,
    Source,
    Usage,
)

_REMEMBERED = frozenset(("user", "assistant"))
_SHOWN_OF_BAD_ANSWER = 2000  # characters; a repair prompt need not repeat a runaway answer


@dataclass(frozen=True, slots=True)
class Extraction:
    """What came of some segments. `num_rejected` facts cited no turn of their prompt and were not kept."""

    drafts: tuple[EntryDraft, ...] = ()
    num_calls: int = 0
    num_rejected: int = 0
    usage: Usage = Usage()

    def __add__(self, other: Extraction) -> Extraction:
        """Both together."""
        usage = Usage(
            self.usage.prompt_tokens + other.usage.prompt_tokens,
            self.usage.completion_tokens + other.usage.completion_tokens,
            self.usage.cached_tokens + other.usage.cached_tokens,
        )
        return Extraction(
            self.drafts + other.drafts,
            self.num_calls + other.num_calls,
            self.num_rejected + other.num_rejected,
            usage,
        )


@dataclass(frozen=True, slots=True)
class _Line:
    """What one ordinal of a prompt stands for: some or all pieces of one turn."""

    segment: int
    sensed: SensedTurn
    pieces: tuple[Piece, ...]
    num_tokens: int

    @property
    def source(self) -> Source:
        turn = self.sensed.turn
        return Source(turn.id, turn.seq, self.pieces[0].start, self.pieces[-1].end)

    def numbered(self) -> v1.Numbered:
        turn = self.sensed.turn
        return v1.Numbered(turn.speaker, " ".join(dated_texts(self.sensed, self.pieces)), turn.event_time)


@dataclass(frozen=True, slots=True)
class Extractor:
    """Asks the model under the schema of its mode, at temperature 0.

    max_tokens: of one answer. max_input_tokens: compressed tokens shown in one prompt; more is split, a single long
    turn at its pieces. salt_of: with whom a user's prompts may share caches; None: with everybody's. behind: asks
    behind a conversation that the model has just read, where that costs less; None: never.
    """

    model: LanguageModel
    mode: v1.ExtractMode = "flat"
    max_tokens: int = 2048
    max_input_tokens: int = 4096
    priority: Priority = Priority.INGEST
    salt_of: Callable[[Scope], Awaitable[str]] | None = None
    behind: Behind | None = None

    async def extract(self, segments: Sequence[Segment]) -> Extraction:
        """Drafts in the order of the answers; each keeps id, span and event time of the turn that it cites.

        An answer cut by length, or a prompt beyond the context, is split in two and asked again; an unusable answer
        is asked for once more. Raises `ModelError` if that fails too, and whatever the model raises: a batch gives
        all of its facts or an error, never a part.
        """
        result = Extraction()
        salt = await self._salt(segments)
        for lines in _packed(_lines(segments), self.max_input_tokens):
            asked, is_answer = await self._extract_behind(lines, salt)
            result += asked if is_answer else asked + await self._extract(lines, salt)
        return result

    async def read_ahead(self, segments: Sequence[Segment], model: ReadsAhead) -> None:
        """Have the model read what the prompt of these and further segments will begin with; kept as long as the last
        of these waits."""
        batches = list(_packed(_lines(segments), self.max_input_tokens))
        if not batches:
            return
        shown = [line.numbered() for line in batches[-1]]
        more = [*shown, replace(shown[-1], text="And more.")]
        schema, salt = v1.EXTRACT[self.mode], await self._salt(segments)
        owner = CacheOwner(segments[-1].scope, segment=segments[-1].id)
        prompts = [Prompt(tuple(v1.extract(one, self.mode)), schema, salt=salt, owner=owner) for one in (shown, more)]
        await model.prefill(prompts[0], prompts[1], self.priority)

    async def _salt(self, segments: Sequence[Segment]) -> str:
        return await self.salt_of(segments[0].scope) if self.salt_of is not None and segments else ""

    async def _extract_behind(self, lines: Sequence[_Line], salt: str) -> tuple[Extraction, bool]:
        """Asked behind the conversation itself, where that costs less: what came of it, and whether it is an answer."""
        if self.behind is None:
            return Extraction(), False
        other = Prompt(tuple(v1.extract([line.numbered() for line in lines], self.mode)), salt=salt)
        try:
            prompt = await self.behind.prompt([line.sensed.turn for line in lines], self.mode, other)
            if prompt is None:
                return Extraction(), False
            answer = await self._ask(prompt)
        except InvalidInput:  # longer than the context, or a conversation that the template refuses now
            return Extraction(), False
        asked = Extraction(num_calls=1, usage=answer.usage)
        try:
            return asked + self._drafts(answer, lines), True
        except ModelError:
            return asked, False

    async def _extract(self, lines: Sequence[_Line], salt: str) -> Extraction:
        turns = [line.numbered() for line in lines]
        messages, schema = v1.extract(turns, self.mode), v1.bounded(self.mode, [turn.text for turn in turns])
        try:
            answer = await self._ask(Prompt(tuple(messages), schema, salt=salt))
        except InvalidInput:
            halves = _split(lines)
            if halves is None:
                raise
            return await self._extract(halves[0], salt) + await self._extract(halves[1], salt)
        asked = Extraction(num_calls=1, usage=answer.usage)
        halves = _split(lines) if answer.finish_reason == "length" else None
        if halves is not None:
            return asked + await self._extract(halves[0], salt) + await self._extract(halves[1], salt)
        try:
            return asked + self._drafts(answer, lines)
        except ModelError as error:
            messages = v1.repair(messages, answer.text[:_SHOWN_OF_BAD_ANSWER], str(error))
            again = await self._ask(Prompt(tuple(messages), schema, salt=salt))
            return asked + Extraction(num_calls=1, usage=again.usage) + self._drafts(again, lines)

    async def _ask(self, prompt: Prompt) -> Completion:
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0)
        return (await self.model.generate([prompt], sampling=sampling, priority=self.priority))[0]

    def _drafts(self, answer: Completion, lines: Sequence[_Line]) -> Extraction:
        if answer.finish_reason == "length":
            raise ModelError(
                f"the answer was cut off after {answer.usage.completion_tokens} tokens; it must be shorter"
            )
        parsed = parse(answer.text, self.mode)
        cited = [item for item in parsed if 1 <= item.source <= len(lines)]
        drafts = dict.fromkeys(cited)  # a model that runs in circles says the same fact twice
        return Extraction(
            tuple(_draft(item, lines[item.source - 1]) for item in drafts), num_rejected=len(parsed) - len(cited)
        )


def _draft(said: Said, line: _Line) -> EntryDraft:
    turn = line.sensed.turn
    metadata: dict[str, Any] = {**turn.metadata, **dict(said.parts)}
    if said.entities:
        metadata["entities"] = list(said.entities)
    text = resolve(said.text, turn.event_time)
    return EntryDraft(
        kind=said.kind,
        text=text,
        session=turn.session,
        speaker=turn.speaker,
        role=turn.role,
        event_time=turn.event_time,
        sources=(line.source,),
        segment=line.segment,
        metadata=metadata,
    )


def _lines(segments: Sequence[Segment]) -> list[_Line]:
    return [
        _Line(segment.id, sensed, sensed.pieces, sensed.num_tokens)
        for segment in segments
        for sensed in segment.turns
        if sensed.turn.role in _REMEMBERED and any(piece.compressed.strip() for piece in sensed.pieces)
    ]


def _packed(lines: Sequence[_Line], max_tokens: int) -> Iterator[list[_Line]]:
    """Consecutive lines up to the budget; a line beyond it alone is split at its pieces as long as it has several."""
    batch: list[_Line] = []
    total = 0
    for part in (part for line in lines for part in _fitting(line, max_tokens)):
        if batch and total + part.num_tokens > max_tokens:
            yield batch
            batch, total = [], 0
        batch.append(part)
        total += part.num_tokens
    if batch:
        yield batch


def _fitting(line: _Line, max_tokens: int) -> list[_Line]:
    halves = _halved(line) if line.num_tokens > max_tokens else None
    return [line] if halves is None else [part for half in halves for part in _fitting(half, max_tokens)]


def _split(lines: Sequence[_Line]) -> tuple[Sequence[_Line], Sequence[_Line]] | None:
    """Two halves of a batch; of a single line, its pieces; None if there is nothing to split."""
    if len(lines) > 1:
        return lines[: len(lines) // 2], lines[len(lines) // 2 :]
    halves = _halved(lines[0])
    return None if halves is None else ([halves[0]], [halves[1]])


def _halved(line: _Line) -> tuple[_Line, _Line] | None:
    middle = len(line.pieces) // 2
    if not middle:
        return None
    sizes = [len(piece.compressed) for piece in line.pieces]
    first = line.num_tokens * sum(sizes[:middle]) // max(1, sum(sizes))
    return (
        replace(line, pieces=line.pieces[:middle], num_tokens=first),
        replace(line, pieces=line.pieces[middle:], num_tokens=line.num_tokens - first),
    )
