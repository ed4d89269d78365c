"""Nouns as JSON."""

from __future__ import annotations

from lightmem_engine.wire import entry_json, hit_json

__all__ = ["entry_json", "hit_json"]
