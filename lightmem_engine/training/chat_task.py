"""Task (a) and (d): answering from notes, saying what is not known, the newer note winning; and plain conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lightmem_engine.prompts import v1
from lightmem_engine.training.examples import Draw, Example, Task
from lightmem_engine.training.lives import USER, Key, Line, Note, Teller
from lightmem_engine.training.phrases import CHATTER, CLOSINGS
from lightmem_engine.training.small_talk import NOTED, PLAIN, WORLD
from lightmem_engine.training.values import Values

UNKNOWN = "I don't know."
_SYSTEMS = ("You are a helpful assistant.", "Be brief.", "You are a friendly companion.", "Answer in one sentence.")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a conversation starts from: notes oldest first, the keys they tell, and keys that nobody told."""

    owner: str
    notes: list[Note]
    unknown: list[Key]

    @property
    def is_of_one_day(self) -> bool:
        """The dates do not say which note is newer; only the order does."""
        return self.notes[0].event_time.date() == self.notes[-1].event_time.date()

    @property
    def known(self) -> dict[Key, str]:
        """The value that holds now, of each key told: the newest note's."""
        return {note.key: note.value for note in self.notes if note.key is not None and not note.is_echo}


def chat(draw: Draw) -> Example:
    """A conversation over memory: several questions, of which a quarter have no answer in the notes."""
    rng = draw.rng
    teller = Teller(rng, Values(rng, draw.split), draw.level.noise)
    memory = remember(draw, teller, draw.between(draw.level.lines))
    messages: list[dict[str, Any]] = []
    tasks: list[Task] = []
    known = memory.known
    needed_at: dict[Key, int] = {}  # the message that first needs what the notes say of the key
    for _ in range(draw.between(draw.level.questions)):
        if memory.unknown and rng.random() < 0.08 * (1 + draw.level.noise):  # told in this conversation
            corrects = rng.random() < 0.3
            key = rng.choice(list(known)) if corrects else memory.unknown.pop()
            note = teller.tell(key, memory.notes[-1].event_time, USER, change=corrects)
            known[key] = note.value
            needed_at.setdefault(key, len(messages))
            _say(messages, tasks, note.text, rng.choice(NOTED), "plain")
            continue
        if rng.random() < 0.04:
            _say(messages, tasks, *rng.choice(PLAIN), "plain")
            continue
        open_keys = [key for key in known if key not in needed_at] or list(known)
        is_known = rng.random() < 0.75 or not memory.unknown
        key = rng.choice(open_keys if is_known else memory.unknown)
        needed_at.setdefault(key, len(messages))
        asked = ask(draw, key)
        answer = key.answer(f"{known[key]}." if is_known else UNKNOWN)
        _say(messages, tasks, asked, answer, "chat" if is_known else "refuse")
    return Example(tuple(placed(draw, memory, messages, needed_at)), tuple(tasks), is_live=rng.random() < 0.7)


def remember(draw: Draw, teller: Teller, num_lines: int) -> Memory:
    """`num_lines` notes by one owner, of several days or of one: facts, some told again with a newer value, small talk,
    questions and answers of before."""
    rng = draw.rng
    owner = USER if rng.random() < 0.8 else teller.values.draw("name")
    people = teller.people(owner, rng.randint(1, 2 + num_lines // 4))
    keys = teller.keys(people, round(num_lines * 1.5) + 2)
    count = min(num_lines + 1, rng.randint(2, 6))
    days = teller.moments(count) if rng.random() < 0.35 else teller.days(count)
    num_small = sum(rng.random() < 0.2 * draw.level.noise for _ in range(num_lines - 1))
    num_updates = sum(rng.random() < draw.level.updates for _ in range((num_lines - num_small) // 2))
    num_keys = max(1, min(len(keys), num_lines - num_small - num_updates))
    told, unknown = keys[:num_keys], keys[num_keys:]
    again = rng.sample(told, min(num_updates, len(told)))
    facts_kept = rng.random() < 0.25  # a memory of extracted facts instead of turns
    notes: list[Note] = []
    for key in told:
        first = rng.randrange(len(days) - (key in again))
        notes.append(teller.tell(key, days[first], "" if facts_kept else owner))
        if key in again:
            later = rng.choice(days[first + 1 :])
            notes.append(teller.tell(key, later, "" if facts_kept else owner, change=True))
    notes += [_small(draw, owner, rng.choice(days), tuple(notes), unknown) for _ in range(num_small)]
    rng.shuffle(notes)
    return Memory(owner, sorted(notes, key=lambda note: note.event_time), unknown)


def placed(
    draw: Draw, memory: Memory, messages: Sequence[dict[str, Any]], needed_at: Mapping[Key, int] | None = None
) -> list[dict[str, Any]]:
    """The conversation with the notes where the engine puts them: the block, hits of turns, or both.

    needed_at: key -> message before whose end its notes must have been shown; with it, hits may come at later turns.
    """
    rng = draw.rng
    teller = Teller(rng, Values(rng, draw.split), draw.level.noise)
    kept = teller.keep(memory.notes)
    lines = [v1.memory_line(Line(note.event_time, text)) for note, text in zip(memory.notes, kept, strict=True)]
    system = [{"role": "system", "content": rng.choice(_SYSTEMS)}] if rng.random() < 0.5 else []
    today = memory.notes[-1].event_time + timedelta(days=rng.randint(0, 40)) if rng.random() < 0.4 else None
    where = rng.random()
    if where < 0.25:
        return v1.place([*system, *messages], block=lines)
    # A block holds the newest notes; what it has no room for comes as hits.
    cut = rng.randrange(1, len(lines)) if where > 0.55 and len(lines) > 1 else len(lines)
    turns: dict[int, list[str]] = {}
    turn_of: dict[Key | None, int] = {}  # all that is said of one key comes at once
    spread = needed_at is not None and len(messages) > 2 and rng.random() < 0.5
    for note, line in zip(memory.notes[:cut], lines[:cut], strict=True):
        if not spread:
            turn = 0
        elif note.key is None:
            turn = draw.rng.randrange(0, len(messages), 2)
        else:
            turn = turn_of.setdefault(note.key, _turn_for(draw, (needed_at or {}).get(note.key, len(messages) - 2)))
        turns.setdefault(turn, []).append(line)
    if not spread and not memory.is_of_one_day and rng.random() < 0.2:
        rng.shuffle(turns[0])  # best first instead of oldest first: only the dates tell
    replayed = {len(system) + turn: v1.memory_text(hits, today) for turn, hits in turns.items()}
    return v1.place([*system, *messages], block=lines[cut:], replayed=replayed)


def _turn_for(draw: Draw, last: int) -> int:
    """A user message not after `last`; a third of them are just that one, as recall brings them."""
    return last if draw.rng.random() < 0.35 else draw.rng.randrange(0, last + 1, 2)


def ask(draw: Draw, key: Key) -> str:
    """A question about the key by the owner of the memory, in a form of its own choosing."""
    rng = draw.rng
    asked = key.question(USER if key.person.owner == USER else "", rng.randrange(len(key.attribute.ask)))
    if rng.random() < 0.15 * draw.level.noise:
        asked = f"{rng.choice(('Do you remember:', 'Hi!', 'Tell me:', 'One question:', 'Hello again.'))} {asked}"
    return asked


def plain(draw: Draw) -> Example:
    """Conversation without memory: greetings, thanks, things told and asked back; what nobody told is not known."""
    rng = draw.rng
    teller = Teller(rng, Values(rng, draw.split), draw.level.noise)
    keys = teller.keys(teller.people(USER, 2), 4)
    told: dict[Key, str] = {}
    messages: list[dict[str, Any]] = []
    tasks: list[Task] = []
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(4):
            case 0:
                _say(messages, tasks, *rng.choice(PLAIN), "plain")
            case 1:
                _say(messages, tasks, rng.choice(WORLD), UNKNOWN, "plain")
            case 2:
                key = rng.choice(keys)
                note = teller.tell(key, teller.days(1)[0], USER)
                told[key] = note.value
                _say(messages, tasks, note.text, rng.choice(NOTED), "plain")
            case _:
                key = rng.choice(keys)
                known = key in told
                answer = key.answer(f"{told[key]}." if known else UNKNOWN)
                _say(messages, tasks, ask(draw, key), answer, "chat" if known else "refuse")
    system = [{"role": "system", "content": rng.choice(_SYSTEMS)}] if rng.random() < 0.5 else []
    return Example((*system, *messages), tuple(tasks), is_live=rng.random() < 0.7)


def _small(draw: Draw, owner: str, day: datetime, notes: Sequence[Note], unknown: Sequence[Key]) -> Note:
    """Small talk, a question, or what the assistant said to one: what it knew then, or that it did not.

    notes: those that tell a key.
    """
    rng = draw.rng
    choice = rng.random()
    about = rng.choice(notes)
    if about.key is not None and choice < 0.2:
        return Note(day, owner, ask(draw, about.key), about.key, is_echo=True)
    if about.key is not None and choice < 0.45:
        # Its place among notes of the same time is chance, so it comes a moment after what it repeats.
        moment = about.event_time + timedelta(seconds=1)
        return Note(moment, "assistant", about.key.answer(f"{about.value}."), about.key, is_echo=True)
    if about.key is not None and choice < 0.5:
        moment = min(note.event_time for note in notes if note.key == about.key) - timedelta(seconds=1)
        return Note(moment, "assistant", about.key.answer(UNKNOWN), about.key, is_echo=True)
    if unknown and choice < 0.55:
        key = rng.choice(unknown)
        return Note(day, "assistant", key.answer(UNKNOWN), key, is_echo=True)
    if choice < 0.7:
        return Note(day, "assistant", rng.choice((*NOTED, UNKNOWN, "Hello! How can I help you?")))
    return Note(day, owner, f"{rng.choice(CHATTER)} {rng.choice(CLOSINGS)}" if choice < 0.8 else rng.choice(CHATTER))


def _say(messages: list[dict[str, Any]], tasks: list[Task], asked: str, answer: str, task: Task) -> None:
    messages += ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    tasks.append(task)
