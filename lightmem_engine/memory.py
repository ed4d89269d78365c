"""`Memory` and `AsyncMemory`: the library face over an engine in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from lightmem_engine.assemble import build
from lightmem_engine.config import EngineConfig
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import InvalidInput, StoreError
from lightmem_engine.types import Hit, Message, Sampling, Scope, TurnOptions

T = TypeVar("T")
MessageLike = Message | Mapping[str, Any]
_FIELDS = frozenset({"role", "content", "name", "timestamp", "id", "metadata"})


class AsyncMemory:
    """Long-term memory in a data directory. `async with AsyncMemory(config) as memory: ...`

    Methods raise the errors of `lightmem_engine.errors`. One instance owns its directory; it belongs to the event
    loop that opened it.
    """

    def __init__(self, config: EngineConfig | None = None, *, tenant: str = "default") -> None:
        self._config = config or EngineConfig()
        self._tenant = tenant
        self._engine: LocalEngine | None = None

    async def open(self) -> Self:
        """Load the models and take up unfinished work; `async with` does it."""
        if self._engine is None:
            self._engine = await build(self._config)
        return self

    async def close(self) -> None:
        """Release the directory. What was acknowledged is on disk whether or not this is called."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def engine(self) -> LocalEngine:
        """The engine underneath; `StoreError` unless open."""
        if self._engine is None:
            raise StoreError("the memory is not open")
        return self._engine

    async def add(
        self,
        messages: MessageLike | Sequence[MessageLike],
        *,
        user_id: str,
        session_id: str | None = None,
        timestamp: str | float | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> list[str]:
        """Remember messages (`Message`, or mappings with its fields). Returns their ids once they are on disk."""
        return await self.engine.add(
            self._scope(user_id),
            as_messages(messages),
            session=session_id,
            timestamp=timestamp,
            metadata=metadata,
            wait=wait,
        )

    async def search(
        self,
        query: str,
        *,
        user_id: str,
        top_k: int = 10,
        max_tokens: int | None = None,
        as_of: datetime | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """What is remembered on a question, best first."""
        return await self.engine.search(
            self._scope(user_id), query, top_k=top_k, max_tokens=max_tokens, as_of=as_of, filters=filters
        )

    async def flush(self, *, user_id: str | None = None) -> dict[str, Any]:
        """Wait until all that was added is long-term memory or parked; returns `stats`."""
        return await self.engine.flush(None if user_id is None else self._scope(user_id))

    async def stats(self, *, user_id: str | None = None) -> dict[str, Any]:
        """Counts, what waits, what is parked and why."""
        return await self.engine.stats(None if user_id is None else self._scope(user_id))

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, user_id: str, session_id: str | None = None, **sampling: Any
    ) -> str:
        """The model's answer with memory in its prompt; both sides are remembered. `sampling`: see `Sampling`."""
        engine = self.engine
        turn = await engine.open_turn(self._scope(user_id), messages, TurnOptions(session=session_id))
        reply, status = "", "partial"
        try:
            async for delta in engine.generate(turn.messages, Sampling(**sampling)):
                reply += delta.text
            status = "complete"
        finally:
            await engine.close_turn(turn.turn_id, reply, status)
        return reply

    def _scope(self, user_id: str) -> Scope:
        return Scope(user=user_id, tenant=self._tenant)


class Memory:
    """`AsyncMemory` for code without an event loop: it runs one in a thread. `with Memory() as memory: ...`"""

    def __init__(self, config: EngineConfig | None = None, *, tenant: str = "default") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lightmem-memory", daemon=True)
        self._thread.start()
        self._memory = AsyncMemory(config, tenant=tenant)
        try:
            self._run(self._memory.open())
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """Release the directory."""
        if self._loop.is_closed():
            return
        self._run(self._memory.close())
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, messages: MessageLike | Sequence[MessageLike], *, user_id: str, **options: Any) -> list[str]:
        """As `AsyncMemory.add`."""
        return self._run(self._memory.add(messages, user_id=user_id, **options))

    def search(self, query: str, *, user_id: str, **options: Any) -> list[Hit]:
        """As `AsyncMemory.search`."""
        return self._run(self._memory.search(query, user_id=user_id, **options))

    def flush(self, *, user_id: str | None = None) -> dict[str, Any]:
        """As `AsyncMemory.flush`."""
        return self._run(self._memory.flush(user_id=user_id))

    def stats(self, *, user_id: str | None = None) -> dict[str, Any]:
        """As `AsyncMemory.stats`."""
        return self._run(self._memory.stats(user_id=user_id))

    def chat(self, messages: Sequence[Mapping[str, Any]], *, user_id: str, **options: Any) -> str:
        """As `AsyncMemory.chat`."""
        return self._run(self._memory.chat(messages, user_id=user_id, **options))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise StoreError("the memory is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _stop(self) -> None:
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def as_messages(messages: MessageLike | Sequence[MessageLike]) -> list[Message]:
    """Messages from what callers hand in; `InvalidInput` names the place and the field."""
    if isinstance(messages, Message | Mapping):
        messages = [messages]
    if not isinstance(messages, list | tuple):
        raise InvalidInput("messages must be a message or a list of messages")
    return [_as_message(index, message) for index, message in enumerate(messages)]


def _as_message(index: int, message: MessageLike) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise InvalidInput(f"message {index} must be an object, not {type(message).__name__}")
    for field in ("role", "content"):
        if field not in message:
            raise InvalidInput(f"message {index} has no {field}")
    unknown = set(message) - _FIELDS
    if unknown:
        raise InvalidInput(f"message {index} has unknown fields: {', '.join(sorted(map(str, unknown)))}")
    return Message(**{**message, "metadata": message.get("metadata") or {}})
