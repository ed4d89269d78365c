"""Which tokens of a rendered prompt are which turn's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.prompts import v1

_TURNS = ("user", "assistant")

Segments = npt.NDArray[np.int64]


def contents_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the turns among the messages say, in order; content in parts is left out."""
    contents = (message.get("content") for message in messages if message.get("role") in _TURNS)
    return [content for content in contents if isinstance(content, str)]


def own_texts(contents: Sequence[str]) -> list[str]:
    """What the client sent of each turn, without the hits in front of it."""
    return [content[v1.own_words(content) :] for content in contents]


def place_turns(contents: Sequence[str], rendered: str, offsets: Sequence[tuple[int, int]]) -> Segments:
    """int64 [t]: for each token the turn to whose own words it belongs, else -1.

    rendered: the prompt's text.   offsets: characters of it, by token. A turn that the template has rewritten is left
    out.
    """
    segments = np.full(len(offsets), -1, np.int64)
    starts, ends = np.asarray(offsets, np.int64).reshape(-1, 2).T
    at = 0
    for turn, (content, own) in enumerate(zip(contents, own_texts(contents), strict=True)):
        place = rendered.find(content, at) if content else -1
        if place >= 0:
            at = place + len(content)
            segments[(ends > at - len(own)) & (starts < at)] = turn
    return segments
