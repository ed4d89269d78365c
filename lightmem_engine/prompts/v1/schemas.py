"""The JSON Schemas of the answers. Keys stand in the order in which a model writes them, without white space.

No `minLength`: xgrammar then forbids escapes in the string. Whoever parses an answer rejects blank text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

ExtractMode = Literal["flat", "event"]
Schema = Mapping[str, Any]


def _load(name: str) -> Schema:
    schema: dict[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text("utf-8"))
    return schema


EXTRACT: Mapping[ExtractMode, Schema] = {"flat": _load("extract_flat"), "event": _load("extract_event")}
DECIDE: Schema = _load("decide")
SUMMARY: Schema = _load("summary")
