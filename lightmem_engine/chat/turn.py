"""One turn of conversation with memory: what is new, recall, place, store; after the answer, store the reply.

The one path that the server, the gateway and the vLLM plugin go through. Memory never makes a chat fail: what goes
wrong with it is reported in `degraded`, and the turn goes on with less.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lightmem_engine.chat.budget import BLOCK_ONLY, NO_RECALL, Deadline
from lightmem_engine.chat.items import check_messages, items_of, reply_item, spoken_text, without_injected
from lightmem_engine.chat.recall import Recaller
from lightmem_engine.chat.surroundings import Surroundings
from lightmem_engine.chat.underway import Opened, Opening, Underway
from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import Conflict, LightMemError
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.runtime.complain import complain
from lightmem_engine.runtime.finished import Conversation
from lightmem_engine.runtime.late import LateWork
from lightmem_engine.text import num_tokens
from lightmem_engine.types import (
    ChatAsk,
    ChatItem,
    ChatOpened,
    ChatPlace,
    ChatView,
    Injection,
    Note,
    OpenTurn,
    Scope,
    TurnOptions,
    kv_params_of,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_QUESTION_CHARS = 4000  # of a longer message the end is what recall asks with: questions come last


class ChatTurns:
    """Turns between `open` and `close`. Belongs to one event loop."""

    def __init__(self, config: EngineConfig, around: Surroundings, budget_ms: float) -> None:
        """budget_ms: time for recall where neither the request nor the configuration names one."""
        self._config = config
        self._around = around
        self._budget_ms = config.chat.budget_ms or budget_ms
        self._late = LateWork()
        self._recaller = Recaller(
            around.search, around.contents, lambda scope: around.store.newest(scope, around.now()), self._late
        )
        self._underway = Underway()

    async def open(self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions) -> OpenTurn:
        """Place what memory holds on the last question and store the request's new messages.

        Raises `InvalidInput` if `messages` is not a chat or the search cannot be, `Conflict` if the idempotency key
        names another request. Without a scope the messages pass through untouched.
        """
        check_messages(messages)
        if scope is None:
            return OpenTurn(uuid.uuid4().hex, tuple(messages))
        with self._underway.opening(scope) as opening:
            return await self._opened(opening, [without_injected(message) for message in messages], options)

    async def _opened(self, opening: Opening, messages: Sequence[Mapping[str, Any]], options: TurnOptions) -> OpenTurn:
        started, turn_id, scope = time.perf_counter(), uuid.uuid4().hex, opening.scope
        items, places = items_of(messages, tool_results=self._config.chat.store_tool_results)
        ask = ChatAsk(tuple(items), options.session, options.idempotency_key)
        budget_ms = self._budget_ms if options.budget_ms is None else options.budget_ms
        deadline = Deadline(budget_ms / 1000)
        view, degraded = await self._look(scope, ask, deadline)
        if view is not None and options.read:
            ask, degraded = await self._remember(scope, ask, view, messages, options, deadline)
        read_ms = (time.perf_counter() - started) * 1000
        opened: ChatOpened | None = None
        if opening.is_changed:
            ask, view = _without_finds(ask), None
        if options.write:
            opened, failure = await self._store(opening, ask)
            degraded = degraded or failure
        if opening.is_erased:  # as if nothing had ever been known
            return OpenTurn(turn_id, tuple(messages), degraded=opening.trouble, salt=secrets.token_hex(32))
        notes, placed = self._placed(messages, places, _shown(ask, opened.view if opened else view), options.read)
        if options.read and view is None and opened is None:
            degraded = degraded if degraded != BLOCK_ONLY else NO_RECALL
        place, salt = opened.place if opened else None, await self._salt(scope, opened.view if opened else view)
        if place is not None:
            self._around.finished.drop(scope, place.session)
        told = tuple(placed), len(placed), salt, place.thread if place is not None else 0
        read = Conversation(*told) if options.plain and not opening.trouble else None
        self._underway.keep(turn_id, Opened(scope, place, read))
        return OpenTurn(
            turn_id=turn_id,
            messages=tuple(placed),
            used=tuple(dict.fromkeys(note.id for note in notes)),
            tokens_added=sum(num_tokens(note.line) for note in notes),
            read_ms=round(read_ms, 2),
            stored=opened is not None,
            degraded=degraded or (opening.trouble if options.read else None),
            salt=salt,
            kv_params=kv_params_of(scope, place) if place and self._config.kv.mode != "off" else {},
        )

    async def close(
        self, turn_id: str, reply: str, status: str, tool_calls: Sequence[Mapping[str, Any]] | None = None
    ) -> bool:
        """Store the reply; `partial` is noted with it. Says whether it is on disk."""
        turn = self._underway.take(turn_id)
        if turn is None or turn.place is None:
            return False
        item = reply_item(reply, tool_calls, is_partial=status == "partial")
        if status == "partial" and item.message is None and not tool_calls:
            return False  # no answer at all: the next attempt is to find the question without one
        if turn.read is not None and status == "complete" and not tool_calls:
            said = (*turn.read.messages, {"role": "assistant", "content": reply})
            # Before anything is awaited: an erasure from here on finds it.
            whole = replace(turn.read, messages=said, num_read=len(said))
            self._around.finished.add(turn.scope, turn.place.session, whole)
        try:
            return await asyncio.shield(asyncio.ensure_future(self._close(turn.scope, turn.place, item)))
        except LightMemError as error:
            complain(logger, "a reply was not stored", error)
            return False

    def forget(self, scope: Scope) -> None:
        """A user is erased: their turns that are under way store nothing any more."""
        self._underway.erase(scope)
        self._around.finished.forget(scope)

    def doubt(self, scope: Scope) -> None:
        """Something of a user is deleted: what turns that are being opened have found may be gone."""
        self._underway.change(scope)
        self._around.finished.forget(scope)

    async def aclose(self) -> None:
        """Wait for recalls that came too late."""
        await self._late.aclose()

    async def _close(self, scope: Scope, place: ChatPlace, item: ChatItem) -> bool:
        around = self._around
        is_stored, is_new = await around.store.close(scope, place, item, around.drafts, around.now())
        if is_new:
            around.wake(scope, place.session)
        return is_stored

    async def _look(self, scope: Scope, ask: ChatAsk, deadline: Deadline) -> tuple[ChatView | None, str | None]:
        try:
            return await self._late.within(self._around.store.look(scope, ask, self._around.now()), deadline.left), None
        except TimeoutError:
            return None, BLOCK_ONLY
        except Conflict:
            raise
        except LightMemError as error:
            complain(logger, "a conversation could not be read", error)
            return None, error.code

    async def _remember(
        self,
        scope: Scope,
        ask: ChatAsk,
        view: ChatView,
        messages: Sequence[Mapping[str, Any]],
        options: TurnOptions,
        deadline: Deadline,
    ) -> tuple[ChatAsk, str | None]:
        """The request with the block and the hits that it gets, and why they are fewer than they could be."""
        present = {spoken_text(message) for message in messages}
        block = view.block
        if block is None and self._config.block.max_tokens:
            try:
                work = self._recaller.block(scope, view, present, self._config.block.max_tokens)
                block, following = await self._late.within(work, deadline.left)
                ask = replace(ask, block=block, next_block=following)
            except TimeoutError:
                return ask, NO_RECALL
            except LightMemError as error:
                complain(logger, "a memory block could not be made", error)
                return ask, error.code
        question = ask.items[-1].text[-MAX_QUESTION_CHARS:] if ask.items else ""
        chat = self._config.chat
        top_k = chat.top_k if options.top_k is None else options.top_k
        max_tokens = chat.max_tokens if options.max_tokens is None else options.max_tokens
        is_asked = messages[-1]["role"] == "user" and len(ask.items) - 1 not in view.injections
        if not (is_asked and question.strip() and top_k and max_tokens):
            return ask, None
        known = [note for injection in view.injections.values() for note in injection.notes]
        notes, degraded = await self._recaller.hits(
            scope,
            question,
            present,
            [*known, *(block.notes if block else ())],
            top_k=top_k,
            max_tokens=max_tokens,
            filters=options.filters,
            deadline=deadline,
        )
        return ask if notes is None else replace(ask, injection=Injection(notes, self._around.today())), degraded

    async def _store(self, opening: Opening, ask: ChatAsk) -> tuple[ChatOpened | None, str | None]:
        scope = opening.scope

        async def store() -> ChatOpened | None:
            around = self._around
            if opening.is_erased:  # a write that is queued before the erasure is erased with the rest
                return None
            kept = _without_finds(ask) if opening.is_changed else ask
            opened = await around.store.open(scope, kept, around.drafts, around.now())
            if opened.is_new:
                around.wake_question(scope, opened.place.session)
            return opened

        try:
            # Shielded: a caller that goes away must not leave messages that the stages do not know of.
            return await asyncio.shield(asyncio.ensure_future(store())), None
        except Conflict:
            raise
        except LightMemError as error:
            complain(logger, "a chat turn was not stored", error)
            return None, error.code

    def _placed(
        self, messages: Sequence[Mapping[str, Any]], places: Sequence[int], view: ChatView, is_read: bool
    ) -> tuple[list[Note], list[Mapping[str, Any]]]:
        """The memories in the prompt, in their order, and the prompt."""
        if not is_read:
            return [], list(messages)
        block = view.block.notes if view.block and self._config.block.max_tokens else ()
        texts = {places[i]: _text(injection) for i, injection in view.injections.items()}
        placed = prompts.place(messages, block=[note.line for note in block], replayed=texts)
        hits = [note for i in sorted(view.injections) for note in view.injections[i].notes]
        return [*block, *hits], list(placed)

    async def _salt(self, scope: Scope, view: ChatView | None) -> str:
        if view is not None and view.salt is not None:
            return view.salt
        try:
            return await self._around.store.salt(scope)
        except LightMemError as error:
            # Caches of nobody: better than caches that users share.
            complain(logger, "the salt of a user could not be read", error)
            return secrets.token_hex(32)


def _without_finds(ask: ChatAsk) -> ChatAsk:
    return replace(ask, injection=None, block=None, next_block=None)


def _shown(ask: ChatAsk, view: ChatView | None) -> ChatView:
    """What the prompt shows: what is stored, or else what this request alone has found."""
    view = view or ChatView()
    injections = dict(view.injections)
    if ask.injection is not None and ask.items:
        injections.setdefault(len(ask.items) - 1, ask.injection)
    return replace(view, injections=injections, block=view.block or ask.block)


def _text(injection: Injection) -> str:
    return prompts.memory_text([note.line for note in injection.notes], injection.today)
