"""Task (b): facts with their sources from numbered turns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lightmem_engine.prompts import v1
from lightmem_engine.training.chat_task import UNKNOWN, ask
from lightmem_engine.training.examples import Draw, Example, compact
from lightmem_engine.training.keeping import Said, keep
from lightmem_engine.training.lives import USER, Key, Teller
from lightmem_engine.training.phrases import CHATTER
from lightmem_engine.training.small_talk import NOTED
from lightmem_engine.training.values import Values


def extract(draw: Draw) -> Example:
    """Turns of one or two sessions, some telling a fact or two; the answer lists the facts in order of the turns."""
    rng = draw.rng
    teller = Teller(rng, Values(rng, draw.split), draw.level.noise)
    names = (USER, "assistant") if rng.random() < 0.7 else (teller.values.draw("name"), teller.values.draw("name"))
    count = draw.between(draw.level.turns)
    first, *later = teller.days(rng.randint(1, 2))
    keys = {name: teller.keys(teller.people(name, rng.randint(1, 3)), count + 2) for name in dict.fromkeys(names)}
    turns: list[tuple[str, Said, datetime]] = []
    facts: list[dict[str, Any]] = []
    for ordinal in range(1, count + 1):
        speaker = names[(ordinal + 1) % 2] if rng.random() < 0.8 else names[0]
        day = later[0] if later and ordinal > count // 2 else first
        if speaker == "assistant":
            turns.append((speaker, Said(rng.choice((*NOTED, UNKNOWN, "How can I help you?"))), day))
            continue
        said, told = _turn(draw, teller, keys[speaker], speaker, day)
        turns.append((speaker, said, day))
        facts.extend({"source": ordinal, "fact": fact} for fact in told)
    answer = {"role": "assistant", "content": compact({"facts": facts})}
    numbered = [
        v1.Numbered(speaker, text, day) for (speaker, _, day), text in zip(turns, _kept(draw, turns), strict=True)
    ]
    schema = v1.bounded("flat", [turn.text for turn in numbered])
    return Example((*v1.extract(numbered), answer), ("extract",), schema=schema)


def _kept(draw: Draw, turns: Sequence[tuple[str, Said, datetime]]) -> list[str]:
    """The turns' texts, compressed or as they were said."""
    texts = [said.text for _, said, _ in turns]
    if draw.rng.random() < 0.6 * draw.level.noise:
        for day in sorted({day for *_, day in turns}):
            places = [i for i, turn in enumerate(turns) if turn[2] == day]
            for i, text in zip(places, keep(draw.rng, [turns[i][1] for i in places], day), strict=True):
                texts[i] = text
    return texts


def _turn(draw: Draw, teller: Teller, keys: list[Key], speaker: str, day: datetime) -> tuple[Said, list[str]]:
    """What is said, and the facts in it."""
    rng = draw.rng
    choice = rng.random()
    if choice < 0.2 * draw.level.noise:
        return Said(rng.choice(CHATTER)), []
    if keys and choice < 0.3 * draw.level.noise:
        return Said(ask(draw, rng.choice(keys))), []
    said: list[Said] = []
    facts: list[str] = []
    for _ in range(min(len(keys), 2 if rng.random() < 0.15 * draw.level.noise else 1)):
        key = keys.pop()
        note = teller.tell(key, day, speaker)
        said.append(note.said)
        facts.append(key.fact(note.value))
    text = " ".join(one.text for one in said) or rng.choice(CHATTER)
    return Said(text, tuple(words for one in said for words in one.needed)), facts
