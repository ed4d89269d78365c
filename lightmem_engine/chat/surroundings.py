"""What chat turns need of the rest of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from lightmem_engine.chat.recall import Contents, Search
from lightmem_engine.runtime.finished import Finished
from lightmem_engine.types import (
    ChatAsk,
    ChatItem,
    ChatOpened,
    ChatPlace,
    ChatView,
    Hit,
    Message,
    Scope,
    TurnDraft,
)

Drafts = Callable[[Sequence[Message], datetime | None], list[TurnDraft]]


class ChatStore(Protocol):
    """Conversations on disk, as `stores.chats.Chats` keeps them."""

    async def look(self, scope: Scope, ask: ChatAsk, now: datetime) -> ChatView:
        """What is known of a request."""
        ...

    async def newest(self, scope: Scope, now: datetime) -> list[Hit]:
        """What a block may be made of."""
        ...

    async def open(self, scope: Scope, ask: ChatAsk, drafts: Drafts, now: datetime) -> ChatOpened:
        """Store what is new in a request."""
        ...

    async def close(
        self, scope: Scope, place: ChatPlace, reply: ChatItem, drafts: Drafts, now: datetime
    ) -> tuple[bool, bool]:
        """Store a reply: whether it is on disk, and whether it brought a message to remember."""
        ...

    async def salt(self, scope: Scope) -> str:
        """The user's salt."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What chat turns need of the engine. drafts: makes messages ready for the log.   wake: tells the stages of a
    session's new messages.   wake_question: the same of a question whose answer is about to follow.   now, today: the
    moment, and the day in the user's zone.   finished: takes what was said, as the model read it."""

    store: ChatStore
    search: Search
    contents: Contents
    drafts: Drafts
    wake: Callable[[Scope, str], None]
    wake_question: Callable[[Scope, str], None]
    now: Callable[[], datetime]
    today: Callable[[], date]
    finished: Finished
