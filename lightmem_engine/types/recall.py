"""What indexes know, and what a search returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightmem_engine.types.base import Kind, Role, State, Vector


@dataclass(frozen=True, slots=True)
class IndexDoc:
    """What an index knows of one recallable thing; the unit of the change feed.

    key: stable name of the place ("m<seq>.<piece>" for a stretch of a message, whether still pending or already
        an entry; "e<entry id>" for a fact). A second `put` of a key replaces the first; if only ref, kind, state
        or vector differ, the text need not be indexed again.
    ref: entry id, or message id while pending.   position: (message seq, piece), the order within the session.
    names: keys of what it speaks of, as `mentions.key` makes them.   heir: ref of the entry that shows instead of this
        one, which was folded into it; it is searched for all the same.
    """

    op: Literal["put", "drop"]
    key: str
    ref: str
    session: str = ""
    position: tuple[int, int] = (0, 0)
    kind: Kind = "turn"
    state: State = "pending"
    role: Role = "user"
    speaker: str = ""
    text: str = ""
    vector: Vector | None = None
    event_time: datetime | None = None
    valid_to: datetime | None = None
    recorded_at: datetime | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    heir: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Views of what a search index knows of one user, one row per slot; valid until the index changes.

    Rows of removed documents remain, with `live` false. Times are milliseconds since 1970, `day` is
    `date.toordinal()` of the speaker's own day; a missing event time or recorded time is the smallest int64,
    a missing `valid_to` the largest. `speaker` and `session` are places in `speakers` and `sessions`. `before` and
    `after` are the slots of the documents next to each in its session, -1 where there is none.
    """

    live: npt.NDArray[np.bool_]
    event_time: npt.NDArray[np.int64]
    day: npt.NDArray[np.int32]
    valid_to: npt.NDArray[np.int64]
    recorded_at: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]  # place in KINDS
    state: npt.NDArray[np.uint8]  # place in STATES
    role: npt.NDArray[np.uint8]  # place in ROLES
    speaker: npt.NDArray[np.int32]
    session: npt.NDArray[np.int32]
    num_tokens: npt.NDArray[np.int32]  # of the indexed text
    asks: npt.NDArray[np.bool_]  # the text ends with a question mark
    before: npt.NDArray[np.int32]
    after: npt.NDArray[np.int32]
    is_folded: npt.NDArray[np.bool_]  # an heir shows instead
    refs: Sequence[str]
    heirs: Sequence[str]  # "" without one
    tags: Sequence[tuple[str, ...]]
    metadata: Sequence[Mapping[str, Any]]
    speakers: Sequence[str]
    sessions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Hit:
    """One recalled thing, best first. `text` is what a reader gets, without the date in front."""

    id: str
    text: str
    score: float
    kind: Kind
    source_ids: tuple[str, ...]
    event_time: datetime
    recorded_at: datetime
    state: State
    speaker: str = ""
