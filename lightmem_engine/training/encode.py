"""Examples to token ids with a mask of what is learned, and batches of similar length. Seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightmem_engine.training.examples import LEVELS, Example
from lightmem_engine.training.tasks import any_example

THINK = "<think>\n\n</think>\n\n"
_REPEATED_TOKENS = (4, 28)  # length of a random sequence that is said several times
_POOL = 96  # examples from which batches of similar length are cut
_EASIER = 0.5  # share of examples from the levels already passed


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids: the whole conversation.   answers: (start, end, task): ids[start:end] is to be predicted."""

    ids: tuple[int, ...]
    answers: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """ids: int64 [rows, T], padded right.   answers: (row, start, end, task)."""

    ids: torch.Tensor
    answers: tuple[tuple[int, int, int, str], ...]


class Encoder:
    """Writes conversations exactly as the tokenizer's chat template does, thinking off."""

    def __init__(self, tokenizer: Any) -> None:
        self._bpe = tokenizer.backend_tokenizer
        self.vocab_size = len(tokenizer)
        self.pad = int(tokenizer.pad_token_id)

    def encode(self, example: Example) -> Encoded:
        """An answer ends with `<|im_end|>`, which is learned; the line break after it is not."""
        pieces: list[tuple[str, str]] = []  # text, and the task if it is an answer
        tasks = iter(example.tasks)
        last = len(example.messages) - 1
        for i, message in enumerate(example.messages):
            opening = f"<|im_start|>{message['role']}\n"
            if message["role"] != "assistant":
                pieces.append((f"{opening}{message['content']}<|im_end|>\n", ""))
                continue
            think = THINK if i == last or example.is_live else ""
            pieces += ((opening + think, ""), (f"{message['content']}<|im_end|>", next(tasks)), ("\n", ""))
        ids: list[int] = []
        answers: list[tuple[int, int, str]] = []
        encodings = self._bpe.encode_batch([text for text, _ in pieces], add_special_tokens=False)
        for encoding, (_, task) in zip(encodings, pieces, strict=True):
            if task:
                answers.append((len(ids), len(ids) + len(encoding.ids), task))
            ids += encoding.ids
        return Encoded(tuple(ids), tuple(answers))

    def repeated(self, rng: random.Random) -> Encoded:
        """A random sequence said a few times; all but the first are learned. It teaches to look back and copy."""
        once = [rng.randrange(self.vocab_size) for _ in range(rng.randint(*_REPEATED_TOKENS))]
        times = rng.randint(2, 5)
        return Encoded((*once,) * times, ((len(once) + 1, times * len(once), "induction"),))


def batches(encoder: Encoder, seed: str, level: int, max_tokens: int) -> Iterator[Batch]:
    """Batches of at most `max_tokens` padded tokens (one longer example stands alone), without end."""
    count = 0
    while True:
        rng = random.Random(f"batches {seed} {level} {count}")
        pool = [_one(encoder, f"{seed} {level} {count} {i}", rng, level) for i in range(_POOL)]
        count += 1
        made = list(_cut(sorted(pool, key=lambda item: len(item.ids)), max_tokens, encoder.pad))
        rng.shuffle(made)
        yield from made


def _one(encoder: Encoder, seed: str, rng: random.Random, level: int) -> Encoded:
    chosen = rng.randrange(level) if level and rng.random() < _EASIER else level
    example = any_example(seed, LEVELS[chosen])
    return encoder.repeated(rng) if example is None else encoder.encode(example)


def _cut(items: Sequence[Encoded], max_tokens: int, pad: int) -> Iterator[Batch]:
    some: list[Encoded] = []
    for item in items:
        if some and (len(some) + 1) * len(item.ids) > max_tokens:
            yield stack(some, pad)
            some = []
        some.append(item)
    if some:
        yield stack(some, pad)


def stack(items: Sequence[Encoded], pad: int) -> Batch:
    """One batch of them all. A causal model never sees the padding from the left of it, so no mask is needed."""
    longest = max(len(item.ids) for item in items)
    ids = torch.full((len(items), longest), pad, dtype=torch.int64)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
    answers = ((row, *answer) for row, item in enumerate(items) for answer in item.answers)
    return Batch(ids, tuple(answers))
