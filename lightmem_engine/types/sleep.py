"""Sleep: entries as it looks at them, what it decides, and what a run did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from lightmem_engine.types.base import Kind, Role, State, Vector

Action = Literal["ignore", "supersede", "duplicate", "update", "split"]
Change = Literal["supersede", "duplicate", "update", "split", "summarise", "retire", "archive", "expire"]
RunState = Literal["running", "done", "stopped", "failed", "rolled_back"]
RunReason = Literal["call", "idle", "count", "schedule", "online"]


@dataclass(frozen=True, slots=True)
class SleepNote:
    """An active entry.

    words: the original stretch of a turn until its text was changed, the text of anything else.   place: where it was
    said, (message, character).   messages: all that it rests on.   is_part: it was split off another entry.
    """

    id: str
    version: int
    kind: Kind
    text: str
    words: str
    speaker: str
    role: Role
    event_time: datetime
    place: tuple[int, int]
    messages: frozenset[int]
    is_part: bool
    vector: Vector = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of an older entry.

    sources: the newer ones it was compared with.   by: the one that decided it.   texts: of `update` the merged text,
    of `split` the parts, with their `vectors`.   rejected: why an answer cannot be carried out; then nothing changes.
    """

    target: str
    action: Action
    sources: tuple[str, ...]
    reason: str
    by: str | None = None
    texts: tuple[str, ...] = ()
    vectors: tuple[Vector, ...] = field(default=(), compare=False, repr=False)
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class SleepBudget:
    """What one run may spend. 0: no limit; None: what is configured, never of a run that has begun."""

    max_calls: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SleepRun:
    """A run and its counters.

    user: None for all users of the tenant.   pairs: looked at.   applied: changes of entries.   rejected: answers that
    could not be carried out.   stale: decisions whose entries had changed meanwhile.   undecided: pairs without a
    usable answer, and those a budget left over; they come up again in the next run.
    """

    id: str
    tenant: str
    user: str | None
    reason: RunReason
    mode: Literal["rules", "llm"]
    state: RunState
    budget: SleepBudget
    started_at: datetime
    ended_at: datetime | None = None
    pairs: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    applied: int = 0
    rejected: int = 0
    stale: int = 0
    undecided: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SleepChange:
    """One changed entry of a run. Texts are read when the change is shown: what was erased since has none.

    before: None for an entry that the run made.   other: the entry because of which it changed.
    """

    number: int
    user: str
    action: Change
    entry: str
    before_version: int | None
    before_text: str | None
    after_version: int
    after_text: str | None
    after_state: State
    other: str | None
    other_text: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class SleepReport:
    """A run with its changes."""

    run: SleepRun
    changes: tuple[SleepChange, ...]
