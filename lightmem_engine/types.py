"""The nouns of the engine. Data only; every time is an aware `datetime`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]  # [dim], unit length
Vectors = npt.NDArray[np.float32]  # [n, dim], unit rows
Floats = npt.NDArray[np.float32]

Role = Literal["user", "assistant", "system", "tool"]
Kind = Literal["turn", "fact", "relation", "event", "summary"]
State = Literal["pending", "active", "superseded", "archived", "expired"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # the place in these tuples is the code in a column
STATES: tuple[State, ...] = get_args(State)
ROLES: tuple[Role, ...] = get_args(Role)
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Priority(IntEnum):
    """Classes of work on a device; smaller goes first, as in vLLM's queue."""

    FOREGROUND = 0
    INGEST = 5
    SLEEP = 10


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


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a turn: characters [start, end) of its text, and how much it deserves to be kept (any scale)."""

    start: int
    end: int
    keep: float


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive texts that one classifier pass reads together; the first `num_context` are only context.

    `document_frequency` counts, per term, the messages of this user that contain it; `num_documents` is how many
    were counted. Classifiers that weigh rarity read it, others ignore it.
    """

    texts: tuple[str, ...]
    num_context: int = 0
    document_frequency: Mapping[str, int] = field(default_factory=dict)
    num_documents: int = 0


@dataclass(frozen=True, slots=True)
class WindowScores:
    """What one pass says of a window.

    words: per text its words in order (empty for context texts).
    attention: float32 [n]; attention[i] = attention mass from text i to text i-1, divided by its mass to all
        earlier texts of the window (nan for i = 0 and where there is no mass).
    mass: float32 [n]; the undivided mean mass from a token of text i to all tokens of text i-1 (nan for i = 0).
    """

    words: tuple[tuple[Word, ...], ...]
    attention: Floats
    mass: Floats


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one turn, small enough to be one entry: characters [start, end) of the turn's text."""

    start: int
    end: int
    compressed: str  # never empty if the stretch has a visible character
    vector: Vector  # of the original stretch, embedded alone


@dataclass(frozen=True, slots=True)
class SensedTurn:
    """A turn after the sensory stage."""

    turn: Turn
    pieces: tuple[Piece, ...]
    vector: Vector  # of the whole turn: the normalised mean of its pieces
    attention: float  # to the previous turn, as WindowScores.attention; nan if there was none
    mass: float  # as WindowScores.mass
    num_tokens: int  # of the compressed text


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive turns of one session about one topic."""

    id: int
    scope: Scope
    session: str
    turns: tuple[SensedTurn, ...]


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

    `index_text` is what lexical search reads (the original words); `vector` is set when the stage already has it.
    """

    kind: Kind
    text: str
    index_text: str
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


@dataclass(frozen=True, slots=True)
class IndexDoc:
    """What an index knows of one recallable thing; the unit of the change feed.

    key: stable name of the place ("m<seq>.<piece>" for a stretch of a message, whether still pending or already
        an entry; "e<entry id>" for a fact). A second `put` of a key replaces the first; if only ref, kind, state
        or vector differ, the text need not be indexed again.
    ref: entry id, or message id while pending.   position: (message seq, piece), the order within the session.
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


@dataclass(frozen=True, slots=True)
class Columns:
    """Views of what a search index knows of one user, one row per slot; valid until the index changes.

    Rows of removed documents remain, with `live` false. Times are milliseconds since 1970, `day` is
    `date.toordinal()` of the speaker's own day; a missing event time or recorded time is the smallest int64,
    a missing `valid_to` the largest. `speaker` and `session` are places in `speakers` and `sessions`.
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
    refs: Sequence[str]
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn; the names are OpenAI's."""

    max_tokens: int | None = None  # None: up to the model's context
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """OpenAI-style messages, and the JSON Schema that the answer must satisfy, if any."""

    messages: tuple[Mapping[str, Any], ...]
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer; the last one carries `finish_reason` and `usage`."""

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What one chat turn asks of memory; None takes the configured value."""

    session: str | None = None
    read: bool = True
    write: bool = True
    top_k: int | None = None
    max_tokens: int | None = None
    filters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A chat turn between its question and its answer.

    messages: what to send to the model.   used: ids of what was recalled.   tokens_added: `text.num_tokens` of it.
    stored: whether the user's words are on disk.   degraded: why recall gave less than it could, or None.
    salt, kv_params: what a model server needs to keep this user's caches apart; empty for a model in process.
    """

    turn_id: str
    messages: tuple[Mapping[str, Any], ...]
    used: tuple[str, ...] = ()
    tokens_added: int = 0
    read_ms: float = 0.0
    stored: bool = False
    degraded: str | None = None
    salt: str = ""
    kv_params: Mapping[str, Any] = field(default_factory=dict)
