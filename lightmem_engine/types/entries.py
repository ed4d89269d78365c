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
    """A stored entry, in one of its versions; version 0 stands for a message that is still pending.

    event_time: from when it holds.   superseded_at: when a later version took its place.
    """

    id: str
    scope: Scope
    version: int
    kind: Kind
    text: str
    session: str
    speaker: str
    event_time: datetime
    valid_to: datetime | None
    recorded_at: datetime
    state: State
    source_ids: tuple[str, ...]
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    superseded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Some of a user's memory; `next_cursor` leads to what follows, None at the end."""

    entries: tuple[MemoryEntry, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class EntryChange:
    """What to change of an entry; None leaves a field as it is.

    metadata: keys to set; a key whose value is None goes.   if_version: refuse unless this is the current version.
    """

    text: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] | None = None
    if_version: int | None = None
