"""What a language model answers to an extraction prompt, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightmem_engine.errors import ModelError
from lightmem_engine.prompts import v1
from lightmem_engine.types import Kind


@dataclass(frozen=True, slots=True)
class Said:
    """One item of an answer: a fact, or a relation with its three parts."""

    source: int
    kind: Kind
    text: str
    parts: tuple[tuple[str, str], ...] = ()
    entities: tuple[str, ...] = ()


def parse(text: str, mode: v1.ExtractMode) -> list[Said]:
    """The items of an answer. Raises `ModelError` for anything but the JSON that the schema describes.

    In event mode an entity is attached to the items that cite the same turn.
    """
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise ModelError(f"the answer is no JSON: {error}") from error
    facts = [(item, _words(item, "fact")) for item in _items(answer, "facts")]
    said = [Said(_ordinal(item), "fact", fact) for item, fact in facts]
    if mode == "flat":
        return said
    named: dict[int, list[str]] = {}
    for item in _items(answer, "entities"):
        named.setdefault(_ordinal(item), []).append(_words(item, "name"))
    for item in _items(answer, "relations"):
        parts = tuple((key, _words(item, key)) for key in ("subject", "relation", "object"))
        said.append(Said(_ordinal(item), "relation", " ".join(part for _, part in parts), parts))
    return [replace(item, entities=tuple(dict.fromkeys(named.get(item.source, ())))) for item in said]


def _items(answer: Any, key: str) -> list[Mapping[str, Any]]:
    items = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ModelError(f'the answer has no list "{key}" of objects')
    return items


def _ordinal(item: Mapping[str, Any]) -> int:
    source = item.get("source")
    if not isinstance(source, int) or isinstance(source, bool):
        raise ModelError(f"source must be the number of a turn, got {source!r}")
    return source


def _words(item: Mapping[str, Any], key: str) -> str:
    words = item.get(key)
    if not isinstance(words, str) or not words.strip():
        raise ModelError(f'"{key}" must be text, got {words!r}')
    return " ".join(words.split())
