"""`EngineClient`: the engine of another process, over its HTTP API at a URL or at its Unix socket."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from lightmem_engine import errors
from lightmem_engine.client_kv import KvClient
from lightmem_engine.client_sleep import SleepClient
from lightmem_engine.client_turns import TurnClient
from lightmem_engine.names import check_scope
from lightmem_engine.protocols import Engine
from lightmem_engine.types import (
    EntryChange,
    EntryPage,
    Hit,
    Kind,
    MemoryEntry,
    Message,
    Sampling,
    Scope,
    State,
)
from lightmem_engine.wire import TENANT_HEADER, entry_of, error_of, hit_of, message_json

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 2.0
MAX_CONNECTIONS = 256
# Nothing is cut short that the server still works on: a flush, an import or an answer may take as long as it takes.
_TIMEOUT = httpx.Timeout(None, connect=CONNECT_SECONDS)
_MEMORY = "/v1/memory"


class EngineClient(SleepClient, TurnClient, KvClient, Engine):
    """Calls come back with the same results and raise the same errors as the engine's own; `EngineDown` if nobody
    answers. Belongs to one event loop.

    address: `http://...` or `https://...`, or the path of a server's socket, `<data-dir>/engine.sock`.   tenant: whose
    data calls without a user of their own are about; over a URL the key decides about it.
    """

    def __init__(self, address: str | Path, api_key: str | None = None, *, tenant: str = "default") -> None:
        self.address = str(address)
        self._tenant = tenant
        self._directory: int | None = None
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        if self.address.startswith(("http://", "https://")):
            self._http = httpx.AsyncClient(base_url=self.address.rstrip("/"), headers=headers, timeout=_TIMEOUT)
        else:
            # An idle connection ends here before the server ends it, so that no request meets one that is just closing.
            limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS)
            transport = httpx.AsyncHTTPTransport(uds=self._reachable(Path(address)), limits=limits)
            base = "http://engine"
            self._http = httpx.AsyncClient(base_url=base, headers=headers, timeout=_TIMEOUT, transport=transport)

    def _reachable(self, path: Path) -> str:
        """A name of the socket short enough for the system, whose limit is about 100 characters."""
        try:
            self._directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.EngineDown(f"nobody answers at {path}: {error.strerror}") from error
        return f"/proc/self/fd/{self._directory}/{path.name}" if Path("/proc/self/fd").exists() else str(path)

    async def add(
        self,
        scope: Scope,
        messages: Sequence[Message],
        *,
        session: str | None = None,
        timestamp: str | float | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> list[str]:
        """See `Engine.add`."""
        when = timestamp.isoformat() if isinstance(timestamp, datetime) else timestamp
        said = [message_json(message) for message in messages]
        body = {"messages": said, "session_id": session, "timestamp": when, "metadata": metadata, "wait": wait}
        answer = await self._post(scope, "/add", body)
        return list(answer["message_ids"])

    async def search(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int = 10,
        max_tokens: int | None = None,
        as_of: datetime | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """See `Engine.search`."""
        moment = as_of.isoformat() if isinstance(as_of, datetime) else as_of
        body = {"query": query, "top_k": top_k, "max_tokens": max_tokens, "as_of": moment, "filters": filters}
        return [hit_of(hit) for hit in (await self._post(scope, "/search", body))["hits"]]

    async def get(self, scope: Scope, id: str) -> MemoryEntry:
        """See `Engine.get`."""
        return entry_of(scope, await self._call("GET", _entry(id), scope, params=_user(scope)))

    async def entries(
        self,
        scope: Scope,
        *,
        limit: int = 100,
        cursor: str | None = None,
        state: State | None = None,
        kind: Kind | None = None,
        session: str | None = None,
    ) -> EntryPage:
        """See `Engine.entries`."""
        wanted = {"limit": limit, "cursor": cursor, "state": state, "kind": kind, "session_id": session}
        answer = await self._call("GET", "/entries", scope, params=_user(scope) | _given(wanted))
        return EntryPage(tuple(entry_of(scope, data) for data in answer["entries"]), answer["next_cursor"])

    async def history(self, scope: Scope, id: str) -> list[MemoryEntry]:
        """See `Engine.history`."""
        answer = await self._call("GET", f"{_entry(id)}/history", scope, params=_user(scope))
        return [entry_of(scope, data) for data in answer["versions"]]

    async def update(self, scope: Scope, id: str, change: EntryChange) -> MemoryEntry:
        """See `Engine.update`."""
        wanted = {"text": change.text, "metadata": change.metadata, "if_version": change.if_version}
        body = _given(wanted | {"tags": None if change.tags is None else list(change.tags)})
        return entry_of(scope, await self._call("PATCH", _entry(id), scope, params=_user(scope), body=body))

    async def delete(self, scope: Scope, id: str) -> None:
        """See `Engine.delete`."""
        await self._call("DELETE", _entry(id), scope, params=_user(scope))

    async def erase(self, scope: Scope) -> dict[str, int]:
        """See `Engine.erase`."""
        check_scope(scope)
        return dict((await self._call("DELETE", f"/users/{_quoted(scope.user)}", scope))["deleted"])

    async def users(
        self, tenant: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """See `Engine.users`."""
        answer = await self._call("GET", "/users", tenant, params=_given({"limit": limit, "cursor": cursor}))
        return list(answer["users"]), answer["next_cursor"]

    async def export(self, tenant: str, user: str | None = None) -> AsyncIterator[bytes]:
        """See `Engine.export`."""
        headers = {TENANT_HEADER: quote(tenant)}
        try:
            request = self._http.stream("GET", f"{_MEMORY}/export", params=_given({"user_id": user}), headers=headers)
            async with request as response:
                if response.status_code >= 400:
                    await response.aread()
                    _raise(response)
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    async def import_(self, tenant: str, chunks: AsyncIterable[bytes]) -> dict[str, int]:
        """See `Engine.import_`."""
        return dict(await self._call("POST", "/import", tenant, content=chunks))

    async def flush(self, scope: Scope | None = None) -> dict[str, Any]:
        """See `Engine.flush`."""
        return dict(await self._post(scope, "/flush", {}))

    async def stats(self, scope: Scope | None = None) -> dict[str, Any]:
        """See `Engine.stats`."""
        return dict(await self._call("GET", "/stats", scope, params={} if scope is None else _user(scope)))

    async def chat(
        self, scope: Scope, messages: Sequence[Mapping[str, Any]], session: str | None, sampling: Sampling
    ) -> str:
        """The server's answer with memory in its prompt; both sides are remembered."""
        body: dict[str, Any] = {
            "messages": list(messages),
            "memory": {"user_id": scope.user} | _given({"session_id": session}),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        } | _given({"max_tokens": sampling.max_tokens, "seed": sampling.seed, "stop": list(sampling.stop) or None})
        answer = await self._call("POST", "/v1/chat/completions", scope, body=body)
        return str(answer["choices"][0]["message"]["content"] or "")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    async def _post(self, scope: Scope | None, path: str, body: Mapping[str, Any]) -> Any:
        return await self._call("POST", path, scope, body={**({} if scope is None else _user(scope)), **body})

    async def _call(
        self,
        method: str,
        path: str,
        scope: Scope | str | None,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: AsyncIterable[bytes] | None = None,
    ) -> Any:
        """The JSON answer. Raises the error that the server names; `BackendUnavailable` if there is none."""
        tenant = self._tenant if scope is None else scope if isinstance(scope, str) else scope.tenant
        headers = {TENANT_HEADER: quote(tenant)}
        data: bytes | AsyncIterable[bytes] | None = content
        if body is not None:
            headers["content-type"] = "application/json"
            data = _encoded(body)
        url = path if path.startswith("/v1/") else _MEMORY + path
        try:
            response = await self._http.request(method, url, params=params, content=data, headers=headers)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise errors.InvalidInput(f"the request cannot be sent: {error}") from error
        if response.status_code >= 400:
            _raise(response)
        try:
            return response.json()
        except ValueError as error:
            raise errors.BackendUnavailable(f"{self.address} does not answer as an engine does") from error

    def _unreachable(self, error: Exception) -> errors.EngineDown:
        return errors.EngineDown(f"nobody answers at {self.address}: {error or type(error).__name__}")


def _raise(response: httpx.Response) -> NoReturn:
    """The error of an answer as the exception it was."""
    try:
        error = response.json()["error"]
        code, message = str(error.get("code")), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = "", f"{response.request.url} answered {response.status_code}"
    raise error_of(code, message, response.status_code)


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidInput("a text holds half a character pair and cannot be sent") from error
    except (TypeError, ValueError) as error:
        raise errors.InvalidInput(f"the request cannot be written as JSON: {error}") from error


def _user(scope: Scope) -> dict[str, str]:
    check_scope(scope)
    return {"user_id": scope.user}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _entry(id: str) -> str:
    if not isinstance(id, str) or not id or not id.isprintable():
        raise errors.InvalidInput("an entry id must be a non-empty printable string")
    return f"/entries/{_quoted(id)}"


def _quoted(name: str) -> str:
    """One segment of a path, whatever it holds; dots too, for `..` would lead elsewhere."""
    return quote(name, safe="").replace(".", "%2E")
