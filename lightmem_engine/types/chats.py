"""What a chat turn and the store of conversations say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from lightmem_engine.types.conversation import Message
from lightmem_engine.types.recall import Hit


@dataclass(frozen=True, slots=True)
class Note:
    """A memory line as it stands in prompts, and the entry (or the message, while it waits) that it shows."""

    id: str
    line: str


@dataclass(frozen=True, slots=True)
class Injection:
    """What was put in front of one message of the user; without notes, nothing."""

    notes: tuple[Note, ...] = ()
    today: date | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """The memory block of a session: lines that stand still.

    epoch: grows whenever earlier lines change.   seen_ms: when the newest entry that was considered was recorded.
    """

    notes: tuple[Note, ...] = ()
    epoch: int = 0
    seen_ms: int = 0


@dataclass(frozen=True, slots=True)
class ChatItem:
    """One message of a request, or a reply.

    digest: of role and normalised content.   message: what of it is to be remembered; None for nothing.
    """

    role: str
    text: str
    digest: bytes
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """A request to take up in the conversations of a user.

    items: the messages, those of the system left out.   injection, block: what to keep with the last message and with
    the session, where nothing is kept yet.   next_block: what the user's next session is to begin from, in that case.
    """

    items: tuple[ChatItem, ...]
    session: str | None = None
    key: str | None = None
    injection: Injection | None = None
    block: Block | None = None
    next_block: Block | None = None


@dataclass(frozen=True, slots=True)
class ChatView:
    """What the store knows of a request.

    injections: by place in the request's items.   block: of the session; None if it has none yet, and then `base` is
    the block to begin from and `fresh` what is new since, newest first.   salt: None until the user's first turn.
    """

    injections: Mapping[int, Injection] = field(default_factory=dict)
    block: Block | None = None
    base: Block = field(default_factory=Block)
    fresh: tuple[Hit, ...] = ()
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class ChatPlace:
    """Where a turn stands in the log: the reply goes behind link `link` of `thread` (0: at its beginning).

    tail: the links behind it when the turn began, which a reply supersedes.   order: later turns of a thread have
    higher ones.   takes_reply: false for a repeat of a turn that the conversation has long left behind.
    """

    session: str
    thread: int
    link: int
    tail: frozenset[int]
    order: int
    takes_reply: bool


@dataclass(frozen=True, slots=True)
class ChatOpened:
    """A request that is on disk. is_new: whether it brought messages to remember."""

    place: ChatPlace
    view: ChatView
    is_new: bool
