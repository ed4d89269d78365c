"""The held-out exam: prompts with values that training never showed, and what the right answers are. Pure, seeded."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightmem_engine.training.chat_task import UNKNOWN, ask, placed, remember
from lightmem_engine.training.examples import Draw, Level
from lightmem_engine.training.lives import Teller
from lightmem_engine.training.tasks import example
from lightmem_engine.training.values import Values

NOISE, UPDATES = 0.7, 0.3
_TURN = re.compile(r"^(\d+) (.*)$", re.MULTILINE)
_NAMED = re.compile(r"\b[A-Z][\w'&-]*|\d[\d:]*")
_UNNAMED = frozenset(("The", "Someone", "I"))


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt. section: the figure it counts for.   is_updated: the notes hold an older value, too."""

    section: str
    messages: tuple[Mapping[str, Any], ...]
    wanted: str
    schema: Mapping[str, Any] | None = None
    is_updated: bool = False


def questions(num_lines: int, count: int, *, known: bool, seed: str) -> Iterator[Item]:
    """Single questions over `num_lines` memory lines that hold the answer, or do not."""
    level = Level((num_lines, num_lines), (1, 1), NOISE, UPDATES, {})
    section = f"answer@{num_lines}" if known else f"refuse@{num_lines}"
    for i in range(count):
        draw = Draw(random.Random(f"exam {section} {seed} {i}"), "held_out", level)
        memory = remember(draw, Teller(draw.rng, Values(draw.rng, "held_out"), NOISE), num_lines)
        key = draw.rng.choice(list(memory.known) if known else memory.unknown)
        wanted = key.answer(f"{memory.known[key]}." if known else UNKNOWN)
        messages = placed(draw, memory, [{"role": "user", "content": ask(draw, key)}])
        is_updated = sum(note.key == key for note in memory.notes) > 1
        yield Item(section, tuple(messages), wanted, is_updated=is_updated)


def structured(task: str, count: int, *, seed: str, level: Level) -> Iterator[Item]:
    """Items of `decide`, `alike` or `extract`."""
    for i in range(count):
        made = example(task, f"exam {seed} {i}", "held_out", level)
        yield Item(task, made.messages[:-1], str(made.messages[-1]["content"]), made.schema)


def match_facts(answer: Any, wanted: str) -> tuple[int, int, int]:
    """(right, answered, wanted) facts: right are those with the very words and the very source."""
    truth = {(fact["source"], fact["fact"]) for fact in json.loads(wanted)["facts"]}
    said = {(fact["source"], fact["fact"]) for fact in answer["facts"]}
    return len(said & truth), len(said), len(truth)


def grounded(answer: Any, messages: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(facts whose names and numbers all occur in the turn they cite or in its speaker, facts)."""
    turns = {int(match[1]): match[2] for match in _TURN.finditer(str(messages[-1]["content"]))}
    facts = {(turns.get(fact["source"], ""), fact["fact"]) for fact in answer["facts"]}  # said twice is said once
    return sum(_occurs(fact, turn) for turn, fact in facts), len(facts)


def match_decisions(answer: Any, wanted: str) -> tuple[int, int]:
    """(decisions right in every part, decisions wanted)."""
    truth = {decision["entry"]: decision for decision in json.loads(wanted)["decisions"]}
    said = {decision["entry"]: decision for decision in answer["decisions"]}
    return sum(said.get(entry) == decision for entry, decision in truth.items()), len(truth)


def match_actions(answer: Any, wanted: str) -> int:
    """Decisions whose action and `by` are right, whatever their text."""
    truth = {decision["entry"]: decision for decision in json.loads(wanted)["decisions"]}
    said = {decision["entry"]: decision for decision in answer["decisions"]}
    return sum(_act(said.get(entry)) == _act(decision) for entry, decision in truth.items())


def _act(decision: Mapping[str, Any] | None) -> tuple[Any, Any] | None:
    return None if decision is None else (decision["action"], decision.get("by"))


def _occurs(fact: str, turn: str) -> bool:
    there = turn.casefold()
    names = (name.removesuffix("'s") for name in _NAMED.findall(fact))
    return all(name.casefold() in there for name in names if name not in _UNNAMED)
