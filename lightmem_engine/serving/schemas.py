"""What clients may send. Unknown fields of a chat request pass through untouched; elsewhere they are errors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


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
