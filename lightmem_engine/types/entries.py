"""What is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lightmem_engine.types.base import Kind, Role, State, Vector
from lightmem_engine.types.conversation import Scope


@dataclass(frozen=True, slots=True)
class Source:
    """Where a fact comes from: characters [start, end) of a message."""

    message_id: str
    message_seq: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class EntryDraft:
    """An entry before it is stored. `text` is what a reader gets, without the date in front.

    `vector` is set when the stage already has it. Lexical search reads the original words of a turn (the stretch that
    its source names), and of anything else the text itself.
    """

    kind: Kind
    text: str
    session: str
    speaker: str
    role: Role
    event_time: datetime
    sources: tuple[Source, ...]
    vector: Vector | None = None
    segment: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """A stored entry, in one of its versions."""

    id: str
    scope: Scope
    version: int
    kind: Kind
    text: str
    session: str
    speaker: str
    event_time: datetime  # valid from
    valid_to: datetime | None
    recorded_at: datetime
    state: State
    source_ids: tuple[str, ...]
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
