"""Where the time to a first token goes: seconds inside the functions that do the work, each counted by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightmem_engine.kv import files
from lightmem_engine.models.kv_tier import KVTier
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.models.qwen_run import Run

PARTS: Mapping[str, tuple[Any, str]] = {
    "template and tokens": (QwenModel, "_open"),
    "looking up": (KVTier, "places"),
    "reading files": (files.ChunkFiles, "_fill"),
    "checking": (files, "digest"),
    "unpacking": (KVTier, "_unpacked"),
    "copying into a cache": (Run, "adopt"),
    "computing the rest": (Run, "_feed"),
    "drawing a token": (Run, "advance"),
}
REST = "everything else"


@contextmanager
def split() -> Iterator[dict[str, list[float]]]:
    """Measures inside the block: the dict, empty before, holds seconds by part and call."""
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    before = {name: getattr(place, attribute) for name, (place, attribute) in PARTS.items()}
    try:
        for name, (place, attribute) in PARTS.items():
            setattr(place, attribute, _timed(before[name], found[name]))
        yield found
    finally:
        for name, (place, attribute) in PARTS.items():
            setattr(place, attribute, before[name])


def shares(found: Mapping[str, list[float]], total: float) -> dict[str, float]:
    """Seconds by part, and what is left of `total`."""
    sums = {name: sum(times) for name, times in found.items()}
    return {**sums, REST: max(0.0, total - sum(sums.values()))}


def _timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **more)
        finally:
            into.append(time.perf_counter() - started)

    return timed
