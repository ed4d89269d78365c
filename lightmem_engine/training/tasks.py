"""One door to all tasks: the example number `i` of a seed, at a level. Equal arguments give equal examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from lightmem_engine.training.chat_task import chat, plain
from lightmem_engine.training.decide_task import decide
from lightmem_engine.training.examples import Draw, Example, Level
from lightmem_engine.training.extract_task import extract
from lightmem_engine.training.look_alikes import alike
from lightmem_engine.training.values import Split

TASKS: Mapping[str, Callable[[Draw], Example]] = {
    "chat": chat,
    "plain": plain,
    "decide": decide,
    "alike": alike,
    "extract": extract,
}


def example(task: str, seed: str, split: Split, level: Level) -> Example:
    """The example of one task that this seed names."""
    return TASKS[task](Draw(random.Random(f"{task} {split} {seed}"), split, level))


def any_example(seed: str, level: Level) -> Example | None:
    """A training example of a task drawn by the weights of the level; None stands for a sequence to repeat."""
    rng = random.Random(f"task {seed}")
    task = rng.choices(list(level.weights), list(level.weights.values()))[0]
    return None if task == "induction" else example(task, seed, "train", level)
