"""One turn of chat with memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.types.chats import ChatPlace
from lightmem_engine.types.conversation import Scope
from lightmem_engine.types.language import CacheOwner

KV_OWNER = "lightmem"


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What one chat turn asks of memory; None takes the configured value.

    session: the caller's name for the conversation; None lets the history tell which one it is.   budget_ms: time for
    recall.   idempotency_key: the caller's name for this very request; a retry brings the same one.   plain: the model
    is shown the messages alone, no tools and no template of the caller's.
    """

    session: str | None = None
    read: bool = True
    write: bool = True
    top_k: int | None = None
    max_tokens: int | None = None
    budget_ms: float | None = None
    idempotency_key: str | None = None
    filters: Mapping[str, Any] | None = None
    plain: bool = True


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A chat turn between its question and its answer.

    messages: what to send to the model.   used: ids of the memories in them: of the block, replayed, and recalled for
    this turn.   tokens_added: `text.num_tokens` of their lines.   stored: whether the user's words are on disk.
    degraded: why memory gave less than it could, or None.   salt: who may share caches of the prompt.   kv_params: for
    a model server's KV connector: under `KV_OWNER` what a kept cache of the prompt belongs to; empty if none is kept.
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

    @property
    def owner(self) -> CacheOwner | None:
        """What a kept cache of this turn's prompt belongs to."""
        found = self.kv_params.get(KV_OWNER)
        if found is None:
            return None
        return CacheOwner(Scope(found["user"], found["tenant"]), found["thread"], found["link"])


def kv_params_of(scope: Scope, place: ChatPlace) -> Mapping[str, Any]:
    """What a cache of a turn's prompt belongs to; nothing if the turn has left its conversation."""
    if not place.link:
        return {}
    return {KV_OWNER: {"tenant": scope.tenant, "user": scope.user, "thread": place.thread, "link": place.link}}
