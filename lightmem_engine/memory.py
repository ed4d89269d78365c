"""`Memory`: the library face for code without an event loop, beside `AsyncMemory`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from lightmem_engine.async_memory import AsyncMemory
from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import StoreError
from lightmem_engine.messages import MessageLike, as_messages
from lightmem_engine.types import Hit, MemoryEntry, SleepReport, SleepRun

__all__ = ["AsyncMemory", "Memory", "MessageLike", "as_messages"]

T = TypeVar("T")


class Memory:
    """`AsyncMemory` for code without an event loop: it runs one in a thread. `with Memory() as memory: ...`"""

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        url: str | None = None,
        api_key: str | None = None,
        tenant: str = "default",
    ) -> None:
        self._memory = AsyncMemory(config, url=url, api_key=api_key, tenant=tenant)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lightmem-memory", daemon=True)
        self._thread.start()
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

    def get(self, id: str, *, user_id: str) -> MemoryEntry:
        """As `AsyncMemory.get`."""
        return self._run(self._memory.get(id, user_id=user_id))

    def get_all(self, *, user_id: str, **wanted: Any) -> list[MemoryEntry]:
        """As `AsyncMemory.get_all`."""
        return self._run(self._memory.get_all(user_id=user_id, **wanted))

    def update(self, id: str, *, user_id: str, **change: Any) -> MemoryEntry:
        """As `AsyncMemory.update`."""
        return self._run(self._memory.update(id, user_id=user_id, **change))

    def delete(self, id: str, *, user_id: str) -> None:
        """As `AsyncMemory.delete`."""
        self._run(self._memory.delete(id, user_id=user_id))

    def delete_all(self, *, user_id: str) -> dict[str, int]:
        """As `AsyncMemory.delete_all`."""
        return self._run(self._memory.delete_all(user_id=user_id))

    def history(self, id: str, *, user_id: str) -> list[MemoryEntry]:
        """As `AsyncMemory.history`."""
        return self._run(self._memory.history(id, user_id=user_id))

    def users(self) -> list[dict[str, Any]]:
        """As `AsyncMemory.users`."""
        return self._run(self._memory.users())

    def export(self, *, user_id: str | None = None) -> Iterator[bytes]:
        """As `AsyncMemory.export`."""
        chunks = self._memory.export(user_id=user_id)
        try:
            while (chunk := self._run(anext(chunks, None))) is not None:
                yield chunk
        finally:
            self._run(_close(chunks))

    def import_(self, chunks: Iterable[bytes]) -> dict[str, int]:
        """As `AsyncMemory.import_`."""
        return self._run(self._memory.import_(chunks))

    def flush(self, *, user_id: str | None = None) -> dict[str, Any]:
        """As `AsyncMemory.flush`."""
        return self._run(self._memory.flush(user_id=user_id))

    def sleep(self, *, user_id: str | None = None, **options: Any) -> SleepRun:
        """As `AsyncMemory.sleep`."""
        return self._run(self._memory.sleep(user_id=user_id, **options))

    def sleep_run(self, id: str) -> SleepReport:
        """As `AsyncMemory.sleep_run`."""
        return self._run(self._memory.sleep_run(id))

    def sleep_runs(self, *, user_id: str | None = None) -> list[SleepRun]:
        """As `AsyncMemory.sleep_runs`."""
        return self._run(self._memory.sleep_runs(user_id=user_id))

    def rollback(self, id: str) -> SleepRun:
        """As `AsyncMemory.rollback`."""
        return self._run(self._memory.rollback(id))

    def kv_stats(self) -> dict[str, Any]:
        """As `AsyncMemory.kv_stats`."""
        return self._run(self._memory.kv_stats())

    def kv_verify(self) -> dict[str, int]:
        """As `AsyncMemory.kv_verify`."""
        return self._run(self._memory.kv_verify())

    def kv_purge(self, *, user_id: str | None = None) -> int:
        """As `AsyncMemory.kv_purge`."""
        return self._run(self._memory.kv_purge(user_id=user_id))

    def stats(self, *, user_id: str | None = None) -> dict[str, Any]:
        """As `AsyncMemory.stats`."""
        return self._run(self._memory.stats(user_id=user_id))

    def chat(self, messages: Sequence[Mapping[str, Any]], *, user_id: str, **options: Any) -> str:
        """As `AsyncMemory.chat`."""
        return self._run(self._memory.chat(messages, user_id=user_id, **options))

    def _run(self, work: Awaitable[T]) -> T:
        if self._loop.is_closed():
            if inspect.iscoroutine(work):
                work.close()
            raise StoreError("the memory is closed")
        future = asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)
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


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def _close(chunks: AsyncIterator[bytes]) -> None:
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
