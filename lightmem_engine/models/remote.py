"""Any OpenAI-compatible server as a `LanguageModel`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_args

import httpx

from lightmem_engine.errors import (
    BackendUnavailable,
    ConfigError,
    InvalidInput,
    LightMemError,
    ModelError,
    NotFound,
    Overloaded,
)
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Completion, Delta, FinishReason, Priority, Prompt, Sampling, Usage

_FINISH_REASONS = frozenset(get_args(FinishReason))
_TEMPLATE_TOKENS = 5  # around a message
_MAX_WORDS = 500  # characters of a server's complaint that we repeat


class RemoteModel:
    """Speaks `POST {url}/chat/completions`; at most `max_concurrency` requests are in flight.

    send_priority: put our priority into the body, which only servers with priority scheduling accept.
    send_salt: put a salt into the body, which vLLM accepts: the prompt's own, with which it shares the caches of its
        user's chats, or else one of this process, so that no other client of the server can find out from the time
        of an answer what was asked here.
    template_options: sent as `chat_template_kwargs`, e.g. {"enable_thinking": False}; None sends nothing, because
        servers other than vLLM may refuse the field.
    model: may be empty; the server is then asked, at the first call, which model it serves.
    timeout_seconds: longest silence of the server, before the answer and between its pieces.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str = "",
        timeout_seconds: float = 120.0,
        max_concurrency: int = 64,
        send_priority: bool = False,
        send_salt: bool = False,
        template_options: Mapping[str, Any] | None = None,
        verify_tls: bool = True,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"lm.url must begin with http:// or https://, got {url!r}")
        self.name = model
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._lists_models = True
        self._models_url = f"{url.rstrip('/')}/models"
        self._send_priority = send_priority
        self._salt = secrets.token_hex(32) if send_salt else ""
        self._template_options = template_options
        self._slots = asyncio.Semaphore(max_concurrency)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=min(10.0, timeout_seconds), pool=None),
            limits=httpx.Limits(max_connections=None),
            verify=verify_tls,
        )

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        """All at once, within the bound; the first failure cancels the others."""
        tasks = [asyncio.create_task(self._complete(prompt, sampling, priority)) for prompt in prompts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncGenerator[Delta, None]:
        """Raises `BackendUnavailable` also when the stream ends before the answer does."""
        await self._learn_name()
        body = {**self._body(prompt, sampling, priority), "stream": True, "stream_options": {"include_usage": True}}
        reason: FinishReason | None = None
        usage = Usage()
        async with self._open(body) as response:
            async for chunk in _events(response):
                usage = _usage(chunk) or usage
                text, ended = _choice(chunk, "delta")
                reason = ended or reason
                if text:
                    yield Delta(text)
        if reason is None:
            raise BackendUnavailable(f"{self._url} ended the stream before the answer")
        yield Delta("", reason, usage)

    async def uncached(self, prompt: Prompt, num_read: int) -> int | None:
        """An estimate: what it has not just read. None for a server whose caches are not ours to share."""
        if not self._salt:
            return None
        unread = [str(message.get("content") or "") for message in prompt.messages[num_read:]]
        return sum(num_tokens(text) + _TEMPLATE_TOKENS for text in unread)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _complete(self, prompt: Prompt, sampling: Sampling, priority: Priority) -> Completion:
        await self._learn_name()
        async with self._open(self._body(prompt, sampling, priority)) as response:
            answer = _parse(await response.aread())
        text, reason = _choice(answer, "message")
        if reason is None:
            raise ModelError(f"{self._url} answered without a choice: {_shortened(json.dumps(answer))}")
        return Completion(text, reason, _usage(answer) or Usage())

    async def _learn_name(self) -> None:
        """Fill in the model's name, if nobody has given one. A server without a list of models needs none."""
        if self.name or not self._lists_models:
            return
        try:
            async with self._open(None) as response:
                answer = _parse(await response.aread())
        except NotFound:
            self._lists_models = False
            return
        models = answer.get("data")
        first = models[0] if isinstance(models, list) and models else None
        if not isinstance(first, dict) or not isinstance(first.get("id"), str):
            raise ModelError(f"{self._models_url} names no model; set lm.model")
        self.name = first["id"]

    def _body(self, prompt: Prompt, sampling: Sampling, priority: Priority) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [dict(message) for message in prompt.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.max_tokens is not None:
            body["max_tokens"] = sampling.max_tokens
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.presence_penalty:
            body["presence_penalty"] = sampling.presence_penalty
        if sampling.frequency_penalty:
            body["frequency_penalty"] = sampling.frequency_penalty
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if prompt.schema is not None:
            named = {"name": str(prompt.schema.get("title", "answer")), "schema": dict(prompt.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if prompt.tools:
            body["tools"] = [dict(tool) for tool in prompt.tools]
        if self._send_priority:
            body["priority"] = int(priority)
        if self._salt:
            body["cache_salt"] = prompt.salt or self._salt
        if self._template_options is not None or prompt.template_options:
            body["chat_template_kwargs"] = {**(self._template_options or {}), **prompt.template_options}
        return body

    @asynccontextmanager
    async def _open(self, body: Mapping[str, Any] | None) -> AsyncIterator[httpx.Response]:
        """The answer to a chat request, or to the question which models there are."""
        method, url = ("GET", self._models_url) if body is None else ("POST", self._url)
        try:
            async with self._slots, self._client.stream(method, url, json=body) as response:
                if response.status_code != 200:
                    raise _refusal(url, response.status_code, await response.aread())
                yield response
        except httpx.TimeoutException as error:
            raise BackendUnavailable(f"{self._url} did not answer in time ({type(error).__name__})") from error
        except httpx.TransportError as error:
            raise BackendUnavailable(f"{self._url} cannot be reached: {error or type(error).__name__}") from error
        except RuntimeError as error:
            if not self._client.is_closed:
                raise
            raise BackendUnavailable(f"the connection to {self._url} has been closed") from error


def _refusal(url: str, status: int, body: bytes) -> LightMemError:
    words = f"{url} answered {status}: {_complaint(body)}"
    if status == 429:
        return Overloaded(words)
    if status >= 500:
        return BackendUnavailable(words)
    if status in (400, 413, 422):
        return InvalidInput(words)
    if status == 404:
        return NotFound(words)
    return ModelError(words)


def _complaint(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except ValueError:
        return _shortened(text)
    if isinstance(said, dict):
        error = said.get("error", said)
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        text = message if isinstance(message, str) else text
    return _shortened(text)


async def _events(response: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """The JSON objects of a server-sent event stream, up to `[DONE]`."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        event = _parse(data)
        if "error" in event:
            raise ModelError(f"the server broke off: {_complaint(data.encode())}")
        yield event


def _parse(data: bytes | str) -> Mapping[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError as error:
        shown = data if isinstance(data, str) else data.decode("utf-8", "replace")
        raise ModelError(f"the server's answer is no JSON: {_shortened(shown)}") from error
    if not isinstance(answer, dict):
        raise ModelError(f"the server's answer is no object: {_shortened(str(answer))}")
    return answer


def _choice(answer: Mapping[str, Any], key: str) -> tuple[str, FinishReason | None]:
    """Text and finish reason of the first choice; ("", None) for a chunk without one, as the usage chunk is."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "", None
    part, reason = choices[0].get(key), choices[0].get("finish_reason")
    if reason is not None and reason not in _FINISH_REASONS:
        raise ModelError(f"the server ended the answer with {reason!r}")
    content = part.get("content") if isinstance(part, dict) else None
    return (content if isinstance(content, str) else ""), reason


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), int(cached or 0))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"
