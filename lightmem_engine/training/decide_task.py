"""Task (c): what newer notes do to older ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lightmem_engine.prompts import v1
from lightmem_engine.training.examples import Draw, Example, compact
from lightmem_engine.training.keeping import Said, keep
from lightmem_engine.training.lives import USER, Key, Line, Teller
from lightmem_engine.training.values import Values

Action = Literal["ignore", "update", "supersede", "duplicate", "split"]
ACTIONS: tuple[Action, ...] = ("ignore", "update", "supersede", "duplicate", "split")


@dataclass(slots=True)
class _Entry:
    """A note to decide about; `decision` without its ordinals, `newer` the entry that `by` will name."""

    line: Line
    decision: dict[str, Any] | None = None
    newer: _Entry | None = None
    needed: tuple[str, ...] = ()  # what compression must leave


class _Days:
    """Distinct days in no order, so that the threads of several keys are woven into each other."""

    def __init__(self, teller: Teller, count: int) -> None:
        self._days = teller.days(count)
        teller.rng.shuffle(self._days)

    def one(self) -> datetime:
        return self._days.pop()

    def two(self) -> tuple[datetime, datetime]:
        """An older and a newer one."""
        first, second = self._days.pop(), self._days.pop()
        return min(first, second), max(first, second)


def decide(draw: Draw) -> Example:
    """Notes oldest first, and one right action for each note asked about."""
    rng = draw.rng
    teller = Teller(rng, Values(rng, draw.split), 0.0)
    owner = USER if rng.random() < 0.5 else teller.values.draw("name")
    room = draw.between(draw.level.notes)
    keys = iter(teller.keys(teller.people(owner, rng.randint(1, 3)), 2 * room))
    days = _Days(teller, 2 * room + 2)
    entries: list[_Entry] = []
    speaker = owner if rng.random() < 0.3 else ""
    while len(entries) < room:
        action = _drawn(draw, ACTIONS if not speaker else ("ignore", "supersede", "duplicate"))
        pair = [next(keys, None), next(keys, None)] if action == "split" else [next(keys, None)]
        if None in pair:
            break
        entries.extend(_MAKERS[action](teller, [key for key in pair if key is not None], days, speaker))
    entries.sort(key=lambda entry: entry.line.event_time)
    if speaker and rng.random() < 0.6 * draw.level.noise:
        for entry in entries:
            said = Said(entry.line.text.removeprefix(f"{speaker}: "), entry.needed)
            (kept,) = keep(rng, [said], entry.line.event_time)
            entry.line = Line(entry.line.event_time, f"{speaker}: {kept}")
    num_targets = len(entries) if rng.random() < 0.5 else min(len(entries), rng.randint(1, 3))
    targets = sorted(rng.sample(range(len(entries)), num_targets))
    decisions = [_numbered(entries, target) for target in targets]
    answer = {"role": "assistant", "content": compact({"decisions": decisions})}
    messages = v1.decide([entry.line for entry in entries], [target + 1 for target in targets])
    return Example((*messages, answer), ("decide",), schema=v1.DECIDE)


def _drawn(draw: Draw, actions: Sequence[Action]) -> Action:
    """All alike in the exam; in training more of what is hardest, two values of the same thing."""
    if draw.split != "train":
        return draw.rng.choice(actions)
    return draw.rng.choices(actions, [2.5 if action == "supersede" else 1.0 for action in actions])[0]


def _numbered(entries: list[_Entry], target: int) -> dict[str, Any]:
    entry = entries[target]
    decision = entry.decision or {"action": "ignore"}
    numbered: dict[str, Any] = {"entry": target + 1, "action": decision["action"]}
    if entry.newer is not None:
        numbered["by"] = next(i for i, other in enumerate(entries, 1) if other is entry.newer)
    return {**numbered, **{key: decision[key] for key in ("text", "texts") if key in decision}}


def _told(teller: Teller, key: Key, value: str, speaker: str, day: datetime, form: int | None = None) -> _Entry:
    """A note that says the value, in words of its own unless `form` gives them; without a speaker, as a kept fact."""
    chosen = teller.rng.randrange(len(key.attribute.say)) if form is None else form
    clause = key.statement(value, speaker or None, chosen)
    sentence = f"{clause[:1].upper()}{clause[1:]}."
    return _Entry(Line(day, f"{speaker}: {sentence}" if speaker else sentence), needed=key.needed(value))


def _ignored(teller: Teller, keys: list[Key], days: _Days, speaker: str) -> list[_Entry]:
    day = days.one()
    value = teller.values.draw(keys[0].attribute.kind, day.date())
    return [_told(teller, keys[0], value, speaker, day)]


def _superseded(teller: Teller, keys: list[Key], days: _Days, speaker: str) -> list[_Entry]:
    kind = keys[0].attribute.kind
    older, newer = days.two()
    values = [teller.values.draw(kind, older.date()) for _ in range(2)]
    while values[1] == values[0]:
        values[1] = teller.values.draw("date" if kind == "recent" else kind)
    return _pair(teller, keys[0], "supersede", [(values[0], older), (values[1], newer)], speaker)


def _duplicated(teller: Teller, keys: list[Key], days: _Days, speaker: str) -> list[_Entry]:
    older, newer = days.two()
    value = teller.values.draw(keys[0].attribute.kind, older.date())
    return _pair(teller, keys[0], "duplicate", [(value, older), (value, newer)], speaker)


def _pair(teller: Teller, key: Key, action: Action, told: Sequence[tuple[str, datetime]], speaker: str) -> list[_Entry]:
    """Both in the same words or each in its own, as people come back to a thing."""
    form = teller.rng.randrange(len(key.attribute.say)) if teller.rng.random() < 0.5 else None
    first, second = (_told(teller, key, value, speaker, day, form) for value, day in told)
    first.decision, first.newer = {"action": action}, second
    return [first, second]


def _updated(teller: Teller, keys: list[Key], days: _Days, speaker: str) -> list[_Entry]:
    older, newer = days.two()
    value = teller.values.draw(keys[0].attribute.kind, older.date())
    base = keys[0].fact(value)[:-1]
    details = [
        f" together with {teller.values.draw('name')}",
        f" since {teller.rng.randint(1990, 2030)}",
        f" because of {teller.values.draw('thing')}",
        f" near {teller.values.draw('place')}",
    ]
    teller.rng.shuffle(details)
    old_detail = details[0] if teller.rng.random() < 0.3 else ""
    text = f"{base}{old_detail}{details[1]}."
    second = _Entry(Line(newer, f"{base}{details[1]}."))
    return [_Entry(Line(older, f"{base}{old_detail}."), {"action": "update", "text": text}, second), second]


def _split(teller: Teller, keys: list[Key], days: _Days, speaker: str) -> list[_Entry]:
    day = days.one()
    texts = [key.fact(teller.values.draw(key.attribute.kind, day.date())) for key in keys]
    return [_Entry(Line(day, " ".join(texts)), {"action": "split", "texts": texts})]


_MAKERS: dict[Action, Callable[..., list[_Entry]]] = {
    "ignore": _ignored,
    "supersede": _superseded,
    "duplicate": _duplicated,
    "update": _updated,
    "split": _split,
}
