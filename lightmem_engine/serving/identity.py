"""Whose memory a chat request means, and what it asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from lightmem_engine.errors import InvalidInput
from lightmem_engine.names import check_name
from lightmem_engine.serving.errors import sentences
from lightmem_engine.serving.schemas import MemoryBody
from lightmem_engine.types import Scope, TurnOptions

USER_HEADER = b"x-memory-user-id"
SESSION_HEADER = b"x-memory-session-id"
IDEMPOTENCY_HEADER = b"idempotency-key"

Trust = Literal["header", "body", "user"]
Headers = Mapping[bytes, bytes]
# Fields of a chat that put more into its prompt than the messages.
_SHOWN_BESIDE = ("tools", "functions", "documents", "chat_template", "continue_final_message", "mm_processor_kwargs")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, and the options of this turn."""

    scope: Scope
    options: TurnOptions


def read_identity(headers: Headers, body: Mapping[str, Any], trust: Trust, tenant: str) -> Identity | None:
    """The identity of a chat request, None if it has none.

    header > `memory.user_id` > `user`, as far as `trust` accepts them: `header` the first, `body` the first two,
    `user` all. Raises `InvalidInput` for a malformed `memory` object or name, also where it is not used.
    """
    memory = _memory(body)
    user: Any = _text(headers, USER_HEADER)
    if not user and trust in ("body", "user"):
        user = memory.user_id
    if not user and trust == "user":
        user = body.get("user")
    if user is None or user == "":
        return None
    session = _text(headers, SESSION_HEADER) or memory.session_id
    key = _text(headers, IDEMPOTENCY_HEADER)
    return Identity(
        Scope(user=check_name("user", user), tenant=tenant),
        TurnOptions(
            session=None if session is None else check_name("session_id", session),
            read=memory.read,
            write=memory.write,
            top_k=memory.top_k,
            max_tokens=memory.max_tokens,
            budget_ms=memory.budget_ms,
            idempotency_key=check_name("Idempotency-Key", key) if key else None,
            filters=memory.filters,
            plain=not any(body.get(name) for name in _SHOWN_BESIDE) and _is_plain(body.get("chat_template_kwargs")),
        ),
    )


def _is_plain(template_options: Any) -> bool:
    """Whether these change nothing of what stands in front of the answer."""
    if not template_options:
        return True
    return isinstance(template_options, Mapping) and template_options.keys() <= {"enable_thinking"}


def _memory(body: Mapping[str, Any]) -> MemoryBody:
    given = body.get("memory")
    if given is None:
        return MemoryBody()
    try:
        return MemoryBody.model_validate(given)
    except ValidationError as error:
        raise InvalidInput("; ".join(f"memory.{what}" for what in sentences(error.errors()).split("; "))) from error


def _text(headers: Headers, name: bytes) -> str | None:
    """A header's value; UTF-8, or what HTTP calls Latin-1."""
    value = headers.get(name)
    if not value:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
