"""What the tier knows of a request: its chunks in order, whose they are, and what was found of them. No bytes, no I/O.

A request is offered one load. What that did not bring is computed: a chunk that cannot be loaded would otherwise be
asked for again and again, and the request would never begin.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightmem_engine.kv.index import Row
from lightmem_engine.types import KV_OWNER

SEARCH_SECONDS = 1.0  # for an answer from the index; a request does not wait longer
Answer = Literal["hit", "miss", "retry"]


@dataclass(slots=True, eq=False)
class Asked:
    """keys: of its prompt's whole chunks, in order, as the store has them.   places: where in that order vLLM's keys
    stand.   owner: what a kept cache belongs to; None if none is kept.   manifest: under which it would be.

    The rest is the scheduler's thread's own, but for `result`, which whoever searches sets once: by place, what can be
    loaded. Between two steps that becomes `found`: within a step vLLM asks for chunk after chunk, and has to hear of
    all of them or of none.
    """

    keys: tuple[bytes, ...]
    places: Mapping[bytes, int]
    owner: dict[str, Any] | None
    manifest: str = field(default_factory=lambda: uuid.uuid4().hex)
    result: Mapping[int, Row] | None = None
    found: Mapping[int, Row] | None = None
    until: float | None = None
    is_tried: bool = False

    @classmethod
    def of(cls, keys: Sequence[bytes], vllm_keys: Sequence[bytes], params: Mapping[str, Any] | None) -> Asked:
        """A request with these parameters. keys, vllm_keys: of the same chunks."""
        owner = (params or {}).get(KV_OWNER)
        places = {bytes(key): place for place, key in enumerate(vllm_keys)}
        return cls(tuple(keys), places, owner if isinstance(owner, dict) else None)

    def place(self, key: bytes) -> int | None:
        """Where a chunk stands in the prompt."""
        return self.places.get(bytes(key))

    def begin_search(self, now: float) -> None:
        """It is being found out what can be loaded."""
        self.until = now + SEARCH_SECONDS

    def answer(self, place: int, now: float) -> Answer:
        """Whether a chunk is to be loaded; `retry` while that is being found out."""
        if self.is_tried or self.until is None:
            return "miss"
        if self.found is None:
            return "retry" if now < self.until else "miss"
        return "hit" if place in self.found else "miss"
