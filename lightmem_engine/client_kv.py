"""The part of the client that is about kept KV caches."""

from __future__ import annotations

from typing import Any


class KvClient:
    """Kept caches over HTTP. `_call` is the client's own."""

    async def _call(self, method: str, path: str, scope: Any, *, params: Any = None, body: Any = None) -> Any:
        raise NotImplementedError

    async def kv_stats(self) -> dict[str, Any]:
        """See `Engine.kv_stats`."""
        return dict(await self._call("GET", "/kv", "default"))

    async def kv_verify(self) -> dict[str, int]:
        """See `Engine.kv_verify`."""
        return dict(await self._call("POST", "/kv/verify", "default", body={}))

    async def kv_purge(self, tenant: str, user: str | None = None) -> int:
        """See `Engine.kv_purge`."""
        body = {} if user is None else {"user_id": user}
        return int((await self._call("POST", "/kv/purge", tenant, body=body))["purged"])
