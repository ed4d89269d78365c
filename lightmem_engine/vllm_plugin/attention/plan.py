"""The scheduler's half of attention from vLLM's model: which tokens of which step to look at. No device, no vLLM.

A request asks by naming its turns. Where they stand in the prompt is found in a thread beside the engine's loop, from
the text that the prompt's tokens spell; the request is begun when that is known, and meanwhile others go on. Only the
prompt is looked at: while an answer is written, vLLM may run whole steps as one recorded graph, where nobody can look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightmem_engine.models.turn_places import Segments, own_texts, place_turns

logger = logging.getLogger(__name__)

TURNS = "lightmem_turns"  # in `kv_transfer_params`: what the turns say, as the prompt has it
PATIENCE_SECONDS = 10.0  # after which a request is begun without


@dataclass(frozen=True, slots=True)
class Turns:
    """A prompt's turns.   texts: their own words.   segments: int64 [t], the turn of each token, -1 for none."""

    texts: tuple[str, ...]
    segments: Segments


@dataclass(frozen=True, slots=True)
class Look:
    """What a step computes of a prompt: `count` tokens from place `start` on, the first of them in `slot` of the
    device's cache.   turns: with the first look only.   is_last: the prompt ends there."""

    request: str
    slot: int
    start: int
    count: int
    turns: Turns | None
    is_last: bool


@dataclass(slots=True)
class _Asked:
    turns: Future[Turns | None]
    num_prompt: int
    arrived: float
    blocks: list[int] = field(default_factory=list)
    is_told: bool = False


class AttentionPlanner:
    """tokenizer: a fast one of transformers, the model's.   block_size: tokens of a block of the cache."""

    def __init__(self, tokenizer: Any, block_size: int) -> None:
        self._tokenizer = tokenizer
        self._size = block_size
        self._asked: dict[str, _Asked] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lightmem-turns")

    def add(self, id: str, prompt: Sequence[int], params: dict[str, Any] | None) -> None:
        """A request has arrived; if it names its turns it is looked at."""
        contents = (params or {}).get(TURNS)
        if not isinstance(contents, list) or not all(isinstance(content, str) for content in contents):
            return
        found = self._thread.submit(find_turns, self._tokenizer, list(prompt), contents)
        self._asked[id] = _Asked(found, len(prompt), time.monotonic())

    def is_searching(self, id: str) -> bool:
        """Whether a request should be begun a little later, when its turns have been found."""
        asked = self._asked.get(id)
        if asked is None or asked.turns.done():
            return False
        if time.monotonic() < asked.arrived + PATIENCE_SECONDS:
            return True
        logger.warning("the turns of a prompt were not found in time; its attention is not looked at")
        self.remove(id)
        return False

    def remove(self, id: str) -> None:
        """A request has ended."""
        self._asked.pop(id, None)

    def scheduled(self, id: str, blocks: Sequence[int], start: int, count: int, *, anew: bool) -> Look | None:
        """A step computes `count` tokens of a request from `start` on; `blocks` as for `kept.plan.Planner`."""
        asked = self._asked.get(id)
        if asked is None:
            return None
        asked.blocks = [*blocks] if anew else [*asked.blocks, *blocks]
        count = min(count, asked.num_prompt - start)
        turns = asked.turns.result() if asked.turns.done() else None
        if turns is None or count <= 0:
            self.remove(id)
            return None
        slot = asked.blocks[start // self._size] * self._size + start % self._size
        told, asked.is_told = asked.is_told, True
        return Look(id, slot, start, count, None if told else turns, start + count == asked.num_prompt)

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(cancel_futures=True)


def find_turns(tokenizer: Any, prompt: list[int], contents: Sequence[str]) -> Turns | None:
    """Where the turns stand in a prompt; None if its tokens do not spell a text that has the same tokens, or none of
    the turns is there."""
    text = tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if found["input_ids"] != prompt:
        return None
    segments = place_turns(contents, text, found["offset_mapping"])
    return Turns(tuple(own_texts(contents)), segments) if bool(np.any(segments >= 0)) else None
