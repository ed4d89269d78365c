"""What a chat example promises: the answer follows from the notes, and refusals are about what nobody told."""

import random

import pytest

from lightmem_engine.prompts import v1
from lightmem_engine.training.chat_task import UNKNOWN, ask, placed, remember
from lightmem_engine.training.examples import LEVELS, Draw, Level
from lightmem_engine.training.lives import Key, Teller
from lightmem_engine.training.tasks import example
from lightmem_engine.training.values import Values, split_of

HARD = LEVELS[-1]


def drawn(seed: int, num_lines: int) -> tuple[Draw, Teller]:
    rng = random.Random(seed)
    draw = Draw(rng, "held_out", Level((num_lines, num_lines), (1, 1), 0.7, 0.4, {}))
    return draw, Teller(rng, Values(rng, "held_out"), 0.7)


@pytest.mark.parametrize("num_lines", [1, 2, 10, 20])
def test_a_memory_has_the_lines_asked_for_oldest_first(num_lines: int) -> None:
    for seed in range(30):
        notes = remember(*drawn(seed, num_lines), num_lines).notes
        assert len(notes) == num_lines
        assert notes == sorted(notes, key=lambda note: note.event_time)


def test_the_newest_note_of_a_key_holds_its_value() -> None:
    num_updated = 0
    for seed in range(40):
        memory = remember(*drawn(seed, 12), 12)
        for key, value in memory.known.items():
            told = [note for note in memory.notes if note.key == key and not note.is_echo]
            assert told[-1].value == value
            assert len({note.event_time for note in told}) == len(told)  # the time alone tells which is newer
            num_updated += len(told) > 1
    assert num_updated > 40


def test_an_echo_repeats_what_held_when_it_was_said() -> None:
    echoes = 0
    for seed in range(200):
        memory = remember(*drawn(seed, 12), 12)
        for place, note in enumerate(memory.notes):
            if note.is_echo and note.speaker == "assistant":
                before = [n.value for n in memory.notes[:place] if n.key == note.key and not n.is_echo]
                assert note.text.endswith(f": {before[-1]}." if before else f": {UNKNOWN}")
                echoes += 1
    assert echoes > 60


def test_some_memories_are_of_one_day_and_told_in_order() -> None:
    memories = [remember(*drawn(seed, 12), 12) for seed in range(100)]
    assert 20 < sum(memory.is_of_one_day for memory in memories) < 60


def test_what_is_unknown_was_told_by_no_note() -> None:
    for seed in range(40):
        memory = remember(*drawn(seed, 12), 12)
        assert memory.unknown
        assert not set(memory.unknown) & set(memory.known)
        assert not {question(key) for key in memory.unknown} & {question(key) for key in memory.known}


def question(key: Key) -> str:
    return key.question("", 0)


def test_each_value_stands_in_the_prompt_as_it_is_to_be_answered() -> None:
    for seed in range(40):
        draw, teller = drawn(seed, 10)
        memory = remember(draw, teller, 10)
        key = draw.rng.choice(list(memory.known))
        messages = placed(draw, memory, [{"role": "user", "content": ask(draw, key)}])
        assert memory.known[key] in "".join(message["content"] for message in messages)


def test_held_out_values_are_never_those_of_training() -> None:
    memory = remember(*drawn(1, 20), 20)
    assert {split_of(note.value) for note in memory.notes if note.value} == {"held_out"}


def test_every_level_and_task_gives_answers_with_a_known_end() -> None:
    for level in LEVELS:
        for i in range(20):
            made = example("chat", str(i), "train", level)
            answers = [m["content"] for m in made.messages if m["role"] == "assistant"]
            assert made.messages[-1]["role"] == "assistant"
            assert len(answers) == len(made.tasks)
            for answer, task in zip(answers, made.tasks, strict=True):
                assert answer.endswith(f": {UNKNOWN}") == (task == "refuse")
                assert task != "chat" or ": " in answer


def test_notes_are_fenced_as_the_engine_fences_them() -> None:
    opening = v1.memory_text(["x"]).partition("x")[0].partition("Today")[0]
    for i in range(30):
        made = example("chat", str(i), "train", HARD)
        assert any(opening in message["content"] for message in made.messages)


def test_equal_seeds_give_equal_examples_and_others_do_not() -> None:
    assert example("chat", "7", "train", HARD) == example("chat", "7", "train", HARD)
    assert example("chat", "7", "train", HARD) != example("chat", "8", "train", HARD)
    assert example("chat", "7", "train", HARD) != example("chat", "7", "held_out", HARD)


def test_without_memory_only_what_was_said_is_known() -> None:
    for i in range(60):
        made = example("plain", str(i), "train", HARD)
        said = ""
        answers = iter(made.tasks)
        for message in made.messages:
            if message["role"] == "assistant" and next(answers) == "chat":
                assert message["content"].partition(": ")[2].removesuffix(".") in said
            said += message["content"]


def test_hits_of_later_turns_come_before_the_answer_that_needs_them() -> None:
    num_later = 0
    for i in range(200):
        made = example("chat", str(i), "train", LEVELS[2])
        fenced = [place for place, message in enumerate(made.messages) if "<memory>" in message["content"]]
        num_later += fenced[-1] > 1
        for place, task in zip(range(len(made.messages) - 1, 0, -2), reversed(made.tasks), strict=False):
            if task == "chat":
                value = made.messages[place]["content"].partition(": ")[2].removesuffix(".")
                assert value in "\n".join(message["content"] for message in made.messages[:place])
    assert num_later > 20
