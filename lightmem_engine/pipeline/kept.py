"""The engine's side of kept KV caches: there, or off with a reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lightmem_engine.pipeline.kv_keeper import KVKeeper


class Kept:
    """keeper: None if no caches are kept, for this `reason`.   release: ends what works for it."""

    def __init__(
        self,
        keeper: KVKeeper | None,
        reason: str = "",
        release: Callable[[], Awaitable[None]] | None = None,
        configured: str = "off",
    ) -> None:
        """configured: `kv.mode`."""
        self.keeper = keeper
        self._configured = configured
        self.reason = reason
        self._release = release

    async def settle(self) -> None:
        """Return once what has ended is in no file. Raises `StoreError`."""
        if self.keeper is not None:
            await self.keeper.settle()

    def gone(self, thread: int) -> int:
        """See `kv_reports.Reports.gone`."""
        return 0 if self.keeper is None else self.keeper.reports.gone(thread)

    async def stats(self) -> dict[str, Any]:
        """Sizes and counters."""
        if self.keeper is None:
            return {"mode": "off", "configured": self._configured, "reason": self.reason}
        return await self.keeper.stats()

    async def verify(self) -> dict[str, int]:
        """Read every chunk; damaged ones are removed."""
        return {"ok": 0, "damaged": 0, "unreadable": 0} if self.keeper is None else await self.keeper.verify()

    async def purge(self, tenant: str, user: str | None) -> int:
        """End and remove all caches of a user, or of a tenant; how many there were."""
        return 0 if self.keeper is None else await self.keeper.purge(tenant, user)

    async def aclose(self) -> None:
        """Let go of files and threads."""
        if self._release is not None:
            await self._release()
