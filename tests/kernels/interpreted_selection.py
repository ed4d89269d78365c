"""`TRITON_INTERPRET=1 python -m tests.kernels.interpreted_selection`: the choice of words by Triton's interpreter.

Prints how many chunks there were, and which came out otherwise than by numpy. A process of its own, because the
interpreter is chosen when a kernel is defined.
"""

from __future__ import annotations

import json
import random

from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_kernels.triton_selection import keep_words
from tests.kernels.selection_cases import chunk, disagreements

BATCHES, CHUNKS = 6, 40


def main() -> None:
    """Every second batch takes the first token of a word for the whole."""
    wrong = []
    for number in range(BATCHES):
        rng = random.Random(number)
        cases = [chunk(rng, 150 if number == 0 else 20) for _ in range(CHUNKS)]
        options = LinguaOptions(token_to_word="first" if number % 2 else "mean")
        wrong += [(number, i) for i in disagreements(cases, options, "cpu", keep_words)]
    print(json.dumps({"chunks": BATCHES * CHUNKS, "wrong": wrong}))


if __name__ == "__main__":
    main()
