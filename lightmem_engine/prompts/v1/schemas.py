"""The JSON Schemas of the answers. Keys stand in the order in which a model writes them, without white space.

No `minLength`: xgrammar then forbids escapes in the string. Whoever parses an answer rejects blank text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal

from lightmem_engine.text import scored_words

ExtractMode = Literal["flat", "event"]
Schema = Mapping[str, Any]


def _load(name: str) -> Schema:
    schema: dict[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text("utf-8"))
    return schema


EXTRACT: Mapping[ExtractMode, Schema] = {"flat": _load("extract_flat"), "event": _load("extract_event")}
_WORDS_PER_ITEM = (
    3  # that a fact, a relation or a name with its kind takes at least; a character, where none are spaced
)
_STEP = 4


def bounded(mode: ExtractMode, turns: Sequence[str]) -> Schema:
    """The schema of `EXTRACT` for these turns: no source beyond the last of them, and no more items than they have
    words for, so that a model which runs in circles comes to an end."""
    schema = json.loads(json.dumps(EXTRACT[mode]))
    words = sum(turn[start].isalnum() for turn in turns for start, _ in scored_words(turn))
    # In steps, because grammars are compiled once for each schema.
    most = _STEP * (words // _WORDS_PER_ITEM // _STEP + 1)
    for part in schema["properties"].values():
        part["maxItems"] = most
        part["items"]["properties"]["source"]["maximum"] = max(1, len(turns))
    bound: Schema = schema
    return bound


DECIDE: Schema = _load("decide")
SUMMARY: Schema = _load("summary")
