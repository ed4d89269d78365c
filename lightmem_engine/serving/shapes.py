"""Nouns as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from lightmem_engine.types import Hit


def hit_json(hit: Hit) -> dict[str, Any]:
    """A hit; times in ISO 8601."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(hit).items()}
