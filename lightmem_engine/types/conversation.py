"""What people say: messages on their way in, turns in the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lightmem_engine.types.base import Role


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memory: everything is keyed by it, nothing crosses it."""

    user: str
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Message:
    """One message as a caller hands it in."""

    role: str
    content: str
    name: str | None = None
    timestamp: str | float | datetime | None = None  # ISO text, Unix seconds, or a datetime
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnDraft:
    """One message, checked and complete, before the log gives it a place. The fields are those of `Turn`."""

    id: str
    role: Role
    speaker: str
    text: str
    event_time: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as the log holds it.

    `event_time` carries the speaker's own UTC offset, so `event_time.date()` is the day the speaker lived;
    it is strictly increasing within a session. `seq` is the place in the log, growing over all users.
    """

    seq: int
    id: str
    scope: Scope
    session: str
    role: Role
    speaker: str
    text: str
    event_time: datetime
    recorded_at: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)
