"""What clients may send. Unknown fields of a chat request pass through untouched; elsewhere they are errors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class MessageBody(Strict):
    """One message to remember."""

    role: Text
    content: Text
    name: str | None = None
    timestamp: str | float | None = None
    id: str | None = None
    metadata: dict[str, Any] = {}


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


class MemoryBody(Strict):
    """The `memory` object of a chat request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: str | None = None
    session_id: str | None = None
    read: bool = True
    write: bool = True
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    budget_ms: Annotated[float, Field(ge=0, le=60_000)] | None = None
    filters: dict[str, Any] | None = None
