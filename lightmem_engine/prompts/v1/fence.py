"""Remembered and quoted text as data: one line each, unable to close its fence or to speak as a control token."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import date

# Not strftime: the locale of the process must not reach a prompt.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

# A "<" is dangerous before "|" (every <|...|> token) and before the names of Qwen's bare tokens and our fence.
# Spaces and case are tolerated because a reader, unlike a tokenizer, tolerates them.
_OPENERS = re.compile(
    r"<(?=\s*\|)|<(?=[\s/]*(?:memory|turns|entries|think|tool_call|tool_response|tools)\b)", re.IGNORECASE
)
_CLOSERS = re.compile(r"\|\s*>")


def neutralize(text: str) -> str:
    """The text with control tokens and fence tags broken, otherwise unchanged, in equal length.

    The angle bracket of `<|...|>`, `<think>`, `<tool_call>`, `<memory>` and their closing forms becomes `‹` or `›`.
    """
    text = _OPENERS.sub("‹", text)
    return _CLOSERS.sub(lambda match: match.group()[:-1] + "›", text)


def one_line(text: str) -> str:
    """The text on one line: white space runs become one space, control and format characters go; then neutralised.

    Format characters (zero-width joiners of emoji apart) hide text from people but not from models.
    """
    visible = (c for c in text if c.isspace() or c == "\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return neutralize(" ".join("".join(visible).split()))


def format_date(moment: date) -> str:
    """The day as a reader sees it: `8 May 2023`, in the moment's own zone."""
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def fence(tag: str, lines: Sequence[str]) -> str:
    """`<tag>`, the lines, `</tag>`. The lines must have been made by `one_line` or `memory_line`."""
    return "\n".join((f"<{tag}>", *lines, f"</{tag}>"))
