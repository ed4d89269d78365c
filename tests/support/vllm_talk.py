"""Asking a vLLM with memory, as the stock OpenAI client does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import openai

from tests.support.vllm_server import MODEL, VllmServer

THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True, slots=True)
class Answer:
    """Its words, its `memory` object, and how many tokens of its prompt were cached."""

    text: str
    memory: dict[str, Any] | None
    cached: int
    prompt_tokens: int


def client(server: VllmServer, key: str = "red-key") -> openai.OpenAI:
    """Without retries of its own."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


def ask(
    server: VllmServer,
    question: str | list[dict[str, Any]],
    user: str | None = None,
    *,
    key: str = "red-key",
    session: str | None = None,
    body: dict[str, Any] | None = None,
    max_tokens: int = 32,
) -> Answer:
    """One chat."""
    headers = {} if user is None else {"X-Memory-User-Id": user}
    if session is not None:
        headers["X-Memory-Session-Id"] = session
    messages: Any = question if isinstance(question, list) else [{"role": "user", "content": question}]
    with client(server, key) as openai_client:
        reply = openai_client.chat.completions.create(
            model=MODEL,
            messages=messages,
            temperature=0,
            max_tokens=max_tokens,
            extra_headers=headers,
            extra_body={**THINKING_OFF, **(body or {})},
        )
    details = reply.usage.prompt_tokens_details if reply.usage else None
    return Answer(
        reply.choices[0].message.content or "",
        (reply.model_extra or {}).get("memory"),
        (details.cached_tokens if details else 0) or 0,
        reply.usage.prompt_tokens if reply.usage else 0,
    )


def native(server: VllmServer, method: str, path: str, key: str | None = "red-key", **rest: Any) -> httpx.Response:
    """A request to one of our routes."""
    headers = ({} if key is None else {"authorization": f"Bearer {key}"}) | rest.pop("headers", {})
    return httpx.request(method, f"{server.url}{path}", headers=headers, timeout=60, **rest)
