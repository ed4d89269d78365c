"""The smallest client of an OpenAI-compatible server that an evaluation needs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from lightmem_engine.errors import BackendUnavailable, ModelError

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion and what it cost in the server's tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class ChatApi:
    """`url` ends in /v1; an empty `model` takes the first one the server lists."""

    def __init__(
        self,
        url: str,
        model: str = "",
        api_key: str = "",
        *,
        seed: int = 42,
        timeout: float = 120.0,
        pause: float = 1.0,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout)
        self._pause = pause
        self.seed = seed
        self.model = model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def start(self) -> None:
        """Find out the model's name if none was given."""
        if not self.model:
            listed = await self._request("GET", "models", None)
            try:
                self.model = str(listed["data"][0]["id"])
            except (KeyError, IndexError, TypeError) as error:
                raise ModelError("the server lists no model; name one") from error

    async def ask(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Answer:
        """A completion at temperature 0; `BackendUnavailable` after three tries, `ModelError` if it makes no sense."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0,
            "seed": self.seed,
            "max_tokens": max_tokens,
        }
        found = await self._request("POST", "chat/completions", body)
        try:
            text = found["choices"][0]["message"]["content"] or ""
            usage = found.get("usage") or {}
            return Answer(str(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(f"not a chat completion: {str(found)[:200]}") from error

    async def _request(self, method: str, path: str, body: Any) -> Any:
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._pause * 2 ** (attempt - 1))
            try:
                response = await self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if response.status_code < 400:
                try:
                    return response.json()
                except ValueError as error:
                    raise ModelError(f"{path} did not answer with JSON") from error
            reason = f"HTTP {response.status_code}: {response.text[:200]}"
            if response.status_code < 500 and response.status_code != 429:
                raise ModelError(f"{path}: {reason}")
        raise BackendUnavailable(f"{self._client.base_url}{path}: {reason}")
