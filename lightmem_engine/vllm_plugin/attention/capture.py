"""The worker's half of attention from vLLM's model: queries and cached keys of chosen layers, reduced while it reads.

The backends of `backends` call `look` after each layer's own attention. Keys come out of the paged cache, so
what a cached prefix spared is there; a turn's row is complete when all of its tokens were computed before our eyes, and
only complete rows are handed on. Whose tokens a row of the batch are is told by the slot its first token is written to,
which belongs to one request alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightmem_engine.types import Floats
from lightmem_engine.vllm_plugin.attention.page_layout import PageLayout
from lightmem_engine.vllm_plugin.attention.plan import Look, Turns
from lightmem_kernels import segment_attention

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Seen:
    """texts: of a prompt's turns.   rows: float32 [n, 3] as for `ServedAttention.note`, zero where not complete."""

    texts: tuple[str, ...]
    rows: Floats


@dataclass(slots=True)
class _Watch:
    """first: the first place that was computed.   upto: the place behind the last one.   num_layers: of this step."""

    turns: Turns
    first: int
    upto: int
    segments: torch.Tensor
    rows: torch.Tensor
    num_layers: int = 0


class Capture:
    """Over one worker's device. layers: whose attention is read."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = frozenset(layers)
        self._watches: dict[str, _Watch] = {}
        self._looks: Sequence[Look] = ()
        self._rows: dict[int, int] = {}
        self._metadata: Any = None
        self._layout: PageLayout | None = None
        self._numbers: dict[str, int] = {}
        self._refused = ""

    def begin(self, looks: Sequence[Look]) -> None:
        """A step begins."""
        self._looks, self._metadata = looks, None

    def look(self, impl: Any, layer: Any, query: torch.Tensor, cache: torch.Tensor, metadata: Any) -> None:
        """One layer has attended. query: [tokens, heads, d].   cache: its blocks.   metadata: of the batch."""
        if not self._looks or metadata is None or self._number(layer.layer_name) not in self._layers:
            return
        if self._layout is None:
            self._refused = refusal(impl, query, cache)
            if self._refused:
                logger.warning("the model's attention is not looked at: %s", self._refused)
                self._layers, self._looks = frozenset(), ()
                return
            self._layout = PageLayout.learn(impl, layer, cache)
        if metadata is not self._metadata:
            starts = metadata.query_start_loc.tolist()
            slots = metadata.slot_mapping[metadata.query_start_loc[:-1].long()].tolist()
            self._rows = {slot: row for row, slot in enumerate(slots) if starts[row] < starts[row + 1]}
            self._starts: list[int] = starts
            self._metadata = metadata
        for look in self._looks:
            row = self._rows.get(look.slot)
            watch = self._watch(look, query.device)
            if row is not None and watch is not None:
                own = query[self._starts[row] : self._starts[row] + look.count]
                blocks = metadata.block_table[row]
                self._fold(look, watch, own * (float(impl.scale) * query.shape[2] ** 0.5), cache, blocks)

    def end(self) -> list[Seen]:
        """A step is over; the prompts that ended in it."""
        found = []
        for look in self._looks:
            watch = self._watches.get(look.request)
            if watch is None:
                continue
            # A step that ran as a recorded graph showed nothing, and one that skipped places cannot be made up for.
            if watch.num_layers != len(self._layers) or look.start > watch.upto:
                self.forget([look.request])
                continue
            watch.upto, watch.num_layers = max(watch.upto, look.start + look.count), 0
            if look.is_last:
                found.append(_seen(watch))
                self.forget([look.request])
        self._looks, self._metadata = (), None
        return found

    def forget(self, requests: Sequence[str]) -> None:
        """These have ended, or are not worth it."""
        for request in requests:
            self._watches.pop(request, None)

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            found = _LAYER.search(name)
            number = self._numbers[name] = int(found[1]) if found else -1
        return number

    def _watch(self, look: Look, device: torch.device) -> _Watch | None:
        """The request's, begun with its first look."""
        if look.turns is not None and look.request not in self._watches:
            segments = torch.from_numpy(look.turns.segments).to(device)
            rows = torch.zeros(1, len(look.turns.texts), 3, device=device)
            self._watches[look.request] = _Watch(look.turns, look.start, look.start, segments, rows)
        return self._watches.get(look.request)

    def _fold(self, look: Look, watch: _Watch, query: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor) -> None:
        """Add what the tokens of a step attend to; those that were seen before, as after a preemption, not again."""
        watch.num_layers += 1
        start, end = max(look.start, watch.upto), look.start + look.count
        if start >= end or self._layout is None:
            return
        keys = self._layout.keys(cache, blocks, end).to(query.dtype)
        segment_attention(
            query[start - look.start :],
            keys,
            None,
            watch.segments[start:end],
            watch.segments[:end],
            torch.tensor([0, end - start]),
            torch.tensor([0, end]),
            causal=True,
            mode="adjacent",
            accumulate_into=watch.rows,
        )


def refusal(impl: Any, query: torch.Tensor, cache: torch.Tensor) -> str:
    """Why the attention of a layer is not what `segment_attention` computes; empty if it is."""
    reasons = {
        "the cache holds other numbers than the model computes with": cache.dtype != query.dtype,
        "it is limited to a window": getattr(impl, "sliding_window", None) not in (None, -1, (-1, -1)),
        "its scores are capped": bool(getattr(impl, "logits_soft_cap", None)),
        "its scores have a bias": getattr(impl, "alibi_slopes", None) is not None,
        "it has sinks": getattr(impl, "sinks", None) is not None,
        "its cache cannot be written from outside": not hasattr(impl, "do_kv_cache_update"),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _seen(watch: _Watch) -> Seen:
    rows = watch.rows[0].cpu().numpy().astype(np.float32)
    for turn in range(len(rows)):
        places = np.flatnonzero(watch.turns.segments == turn)
        if not len(places) or places[0] < watch.first:
            rows[turn] = 0
    return Seen(watch.turns.texts, rows)
