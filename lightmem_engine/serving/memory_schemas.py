"""What clients may send to the native routes; unknown fields are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from lightmem_engine.serving.schemas import Strict, Text


class MessageBody(Strict):
    """One message to remember."""

    role: Text
    content: Text
    name: str | None = None
    timestamp: str | float | None = None
    id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class AddBody(Strict):
    """`POST /v1/memory/add`."""

    user_id: Text
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    session_id: str | None = None
    timestamp: str | float | None = None
    metadata: dict[str, Any] | None = None
    wait: bool = False


class SearchBody(Strict):
    """`POST /v1/memory/search`."""

    user_id: Text
    query: Text
    top_k: int = 10
    max_tokens: int | None = None
    as_of: AwareDatetime | None = None
    filters: dict[str, Any] | None = None


class FlushBody(Strict):
    """`POST /v1/memory/flush`."""

    user_id: str | None = None


class SleepBody(Strict):
    """`POST /v1/memory/sleep`; limits that are not given are as configured."""

    user_id: Text | None = None
    wait: bool = False
    max_calls: Annotated[int, Field(ge=0, le=2**53)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**53)] | None = None
    max_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class KvPurgeBody(Strict):
    """`POST /v1/memory/kv/purge`; without a user, those of the whole tenant."""

    user_id: Text | None = None


class PatchBody(Strict):
    """`PATCH /v1/memory/entries/{id}`; what is absent stays as it is."""

    text: Text | None = None
    tags: list[Text] | None = None
    metadata: dict[str, Any] | None = None
    if_version: int | None = None


class TurnOptionsBody(Strict):
    """What one chat turn asks of memory, as `types.TurnOptions`."""

    session: str | None = None
    read: bool = True
    write: bool = True
    top_k: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    budget_ms: float | None = None
    idempotency_key: str | None = None
    plain: bool = True
    filters: dict[str, Any] | None = None


class OpenTurnBody(Strict):
    """`POST /v1/memory/turns/open`; without a user nothing is read or kept."""

    user_id: str | None = None
    messages: list[dict[str, Any]]
    options: TurnOptionsBody = TurnOptionsBody()


class CloseTurnBody(Strict):
    """`POST /v1/memory/turns/close`."""

    turn_id: Text
    reply: str
    status: Literal["complete", "partial"]
    tool_calls: list[dict[str, Any]] | None = None


class ForegroundBody(Strict):
    """`POST /v1/memory/foreground`."""

    action: Literal["enter", "leave"]
    lease: str | None = None


class OwnerBody(Strict):
    """`POST /v1/memory/owner`."""

    counts: bool = False
