"""Cut a long text into stretches that are small enough to be remembered and recalled on their own. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lightmem_engine.text import UNSPACED

# What counts as one word: at most 24 characters of a run, so that an endless run (base64, a URL) cannot make a stretch
# endless, and one character where a script writes no spaces.
_WORD = re.compile(rf"[^\s{UNSPACED}]{{1,24}}|[{UNSPACED}]")
_LINE = re.compile(r"[^\n]*\n?")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]")
_FENCE = "```"


def split(text: str, max_words: int) -> list[tuple[int, int]]:
    """Character ranges [start, end) of stretches of at most `max_words` words, in order.

    Every visible character is in exactly one; white space between stretches is in none. Cuts fall at ends of lines and
    sentences (inside a ``` block at ends of lines only), or between words where one sentence is too long by itself.
    Stretches of one text are of similar size, so that no crumb is left at the end.
    """
    if max_words < 1:
        raise ValueError(f"max_words must be at least 1, not {max_words}")
    parts = [part for sentence in _sentences(text) for part in _short_enough(text, *sentence, max_words)]
    total = sum(words for _, _, words in parts)
    if not total:
        return []
    enough = -(-total // -(-total // max_words))
    stretches: list[tuple[int, int]] = []
    held = 0
    for start, end, words in parts:
        if held and held < enough and held + words <= max_words:
            stretches[-1] = (stretches[-1][0], end)
            held += words
        else:
            stretches.append((start, end))
            held = words
    return stretches


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    fenced = False
    for line in _LINE.finditer(text):
        start = line.start()
        is_fence = line.group().lstrip().startswith(_FENCE)
        if not fenced and not is_fence:
            for stop in _SENTENCE_END.finditer(text, line.start(), line.end()):
                yield start, stop.end()
                start = stop.end()
        fenced ^= is_fence
        yield start, line.end()


def _short_enough(text: str, start: int, end: int, max_words: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, words) with white space trimmed; nothing for a range without visible characters."""
    words = [match.span() for match in _WORD.finditer(text, start, end)]
    for i in range(0, len(words), max_words):
        group = words[i : i + max_words]
        yield group[0][0], group[-1][1], len(group)
