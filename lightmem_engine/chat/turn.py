"""One turn of conversation with memory: recall, place, log, answer, log.

The one path that the server, and later the gateway and the vLLM plugin, go through. Memory never makes a chat fail: a
failing recall or log is reported in `degraded` and the turn goes on without it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from lightmem_engine.config import ChatConfig
from lightmem_engine.errors import InvalidInput, LightMemError
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Hit, Message, OpenTurn, Scope, TurnOptions

logger = logging.getLogger(__name__)

Search = Callable[..., Awaitable[list[Hit]]]
Log = Callable[..., Awaitable[list[str]]]
Contents = Callable[[Scope, Iterable[str]], Awaitable[dict[str, str]]]
MAX_QUESTION_CHARS = 4000  # of a longer message the end is what recall asks with: questions come last


@dataclass(frozen=True, slots=True)
class _Open:
    scope: Scope
    session: str | None
    write: bool


class ChatTurns:
    """Turns between `open` and `close`. Belongs to one event loop."""

    def __init__(
        self, config: ChatConfig, search: Search, log: Log, contents: Contents, today: Callable[[], date]
    ) -> None:
        """search, log, contents: the engine's.   today: the day in the user's zone."""
        self._config = config
        self._search = search
        self._log = log
        self._contents = contents
        self._today = today
        self._open: dict[str, _Open] = {}

    async def open(self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions) -> OpenTurn:
        """Place what memory holds on the last question and log the user's new words.

        Raises `InvalidInput` if `messages` is not a chat. Without a scope the messages pass through untouched.
        """
        check_messages(messages)
        turn_id = uuid.uuid4().hex
        if scope is None:
            return OpenTurn(turn_id, tuple(messages))
        started = time.perf_counter()
        hits, degraded = await self._recall(scope, messages, options)
        lines = [prompts.memory_line(hit) for hit in sorted(hits, key=lambda hit: hit.event_time)]
        placed = prompts.place(messages, hits=lines, today=self._today()) if lines else list(messages)
        read_ms = (time.perf_counter() - started) * 1000
        stored = False
        if options.write:
            stored, degraded = await self._store(scope, options.session, _new_messages(messages), degraded)
        self._open[turn_id] = _Open(scope, options.session, options.write)
        return OpenTurn(
            turn_id=turn_id,
            messages=tuple(placed),
            used=tuple(hit.id for hit in hits),
            tokens_added=sum(map(num_tokens, lines)),
            read_ms=round(read_ms, 2),
            stored=stored,
            degraded=degraded,
        )

    async def close(self, turn_id: str, reply: str, status: str) -> bool:
        """Log the reply; `partial` is noted with it. Says whether it is on disk."""
        turn = self._open.pop(turn_id, None)
        if turn is None or not turn.write or not reply.strip():
            return False
        metadata = {"partial": True} if status == "partial" else {}
        stored, _ = await self._store(turn.scope, turn.session, [Message("assistant", reply, metadata=metadata)], None)
        return stored

    def forget(self, scope: Scope) -> None:
        """A user is erased: their open turns store nothing any more."""
        for turn_id in [id for id, turn in self._open.items() if turn.scope == scope]:
            del self._open[turn_id]

    async def _recall(
        self, scope: Scope, messages: Sequence[Mapping[str, Any]], options: TurnOptions
    ) -> tuple[list[Hit], str | None]:
        question = _text(messages[-1])[-MAX_QUESTION_CHARS:]
        top_k = self._config.top_k if options.top_k is None else options.top_k
        max_tokens = self._config.max_tokens if options.max_tokens is None else options.max_tokens
        if not (options.read and top_k and max_tokens and messages[-1]["role"] == "user" and question.strip()):
            return [], None
        try:
            hits = await self._search(scope, question, top_k=top_k, max_tokens=max_tokens, filters=options.filters)
            told = await self._contents(scope, [id for hit in hits for id in hit.source_ids])
        except InvalidInput:
            raise
        except LightMemError as error:
            logger.warning("recall failed: %s", error)
            return [], error.code
        present = {_text(message).strip() for message in messages}
        return [hit for hit in hits if not all(told.get(id, "").strip() in present for id in hit.source_ids)], None

    async def _store(
        self, scope: Scope, session: str | None, messages: Sequence[Message], degraded: str | None
    ) -> tuple[bool, str | None]:
        if not messages:
            return False, degraded
        try:
            await self._log(scope, messages, session=session)
        except LightMemError as error:
            logger.warning("a chat turn was not stored: %s", error)
            return False, degraded or error.code
        return True, degraded


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """A non-empty list of objects with a role, or `InvalidInput` that says where it is not."""
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidInput("messages must be a non-empty list")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidInput(f"messages[{index}] must be an object with a role")
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidInput(f"messages[{index}].content must be text or a list of parts")


def _new_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The user's words after the last reply."""
    new: list[Message] = []
    for message in reversed(messages):
        if message["role"] == "assistant":
            break
        if message["role"] == "user" and _text(message).strip():
            new.append(Message("user", _text(message), name=message.get("name")))
    return new[::-1]


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message; of many parts, the text parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))
