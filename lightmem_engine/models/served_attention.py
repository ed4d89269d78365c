"""Attention between the turns of a chat, taken from the very prefill that answers it.

The serving model reads a conversation anyway. While it does, the queries and keys of a few layers are folded into three
numbers per turn; the sensory stage finds them later by the texts of a turn and its predecessor, instead of computing
its own. What the prefix cache spared has no queries, but its keys are there: a turn's row is complete because it was
added up when the turn itself was read or written.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lightmem_engine.models.tap import Tap, last_third
from lightmem_engine.models.turn_places import contents_of, own_texts, place_turns
from lightmem_engine.models.window_pass import shares
from lightmem_engine.protocols import TokenClassifier
from lightmem_engine.types import Floats, Window, WindowScores
from lightmem_kernels import segment_attention

_CAPACITY = 100_000  # pairs of turns; each takes about 200 bytes
_SECRET = os.urandom(32)  # digests mean nothing outside this process

Row = tuple[float, float, float]


class ServedAttention:
    """Rows of attention by the texts they are about: to the previous turn, to all earlier ones, and to itself.

    Texts are kept as keyed digests only, and the oldest rows go first. Safe to use from several threads.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, texts: Sequence[str], rows: Floats) -> None:
        """rows: float32 [n, 3] of `texts`; those of turns that were not read are zero and are left out."""
        with self._lock:
            for i in range(1, len(texts)):
                if rows[i].any():
                    key = _key(texts[i - 1], texts[i])
                    self._rows[key] = (float(rows[i, 0]), float(rows[i, 1]), float(rows[i, 2]))
                    self._rows.move_to_end(key)
            while len(self._rows) > self._capacity:
                self._rows.popitem(last=False)

    def find(self, previous: str, text: str) -> Row | None:
        """The row of `text` where it followed `previous`."""
        with self._lock:
            return self._rows.get(_key(previous, text))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._rows.clear()


class ServedClassifier:
    """Word scores of another classifier, attention between turns as the serving model has it; where that model has not
    read a turn after its predecessor, the other classifier's."""

    def __init__(self, words: TokenClassifier, served: ServedAttention) -> None:
        self._words, self._served = words, served
        self.name = f"served({words.name})"
        self.max_tokens = words.max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return self._words.count(texts)

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One pass over all windows. A window longer than `max_tokens` raises `InvalidInput`."""
        return [self._served_to(*pair) for pair in zip(windows, self._words.score(windows), strict=True)]

    def _served_to(self, window: Window, scores: WindowScores) -> WindowScores:
        attention, mass = scores.attention.copy(), scores.mass.copy()
        for i in range(1, len(window.texts)):
            row = self._served.find(window.texts[i - 1], window.texts[i])
            if row is not None:
                found = shares(np.array([(0.0, 0.0, 0.0), row], np.float32))
                attention[i], mass[i] = found[0][1], found[1][1]
        return replace(scores, attention=attention, mass=mass)


class Reader:
    """Looks on while one model reads and answers chats."""

    def __init__(self, into: ServedAttention, layers: Sequence[int] = ()) -> None:
        """layers: whose attention is read; empty takes the last third."""
        self._into, self._layers = into, tuple(layers)
        self._tap: Tap | None = None

    def attach(self, model: Any) -> None:
        """Put the tap into a decoder of transformers. An impossible layer is a `ConfigError`."""
        self._tap = Tap(model, self._layers or last_third(model))

    def begin(
        self, messages: Sequence[Mapping[str, Any]], rendered: str, offsets: Sequence[tuple[int, int]]
    ) -> Watch | None:
        """A watch over a chat; None if none of its turns can be told from the rest.

        rendered: the prompt's text.   offsets: characters of it, by token. A turn's own words are what the client sent,
        without the hits in front of them; a turn that the template has rewritten is left out.
        """
        contents = contents_of(messages)
        texts, segments = own_texts(contents), torch.from_numpy(place_turns(contents, rendered, offsets))
        if self._tap is None or not bool((segments >= 0).any()):
            return None
        return Watch(self._tap, self._into, texts, segments, torch.zeros(len(texts) + 1, 3))

    def forget(self) -> None:
        """Drop all that was seen."""
        self._into.clear()


@dataclass(slots=True)
class Watch:
    """One chat while the model reads and answers it.

    texts: its turns.   segments: int64 [t], the turn of each token of the prompt, -1 for those of none.
    rows: float32 [turns + 1, 3], the last for the reply.
    """

    tap: Tap
    into: ServedAttention
    texts: list[str]
    segments: torch.Tensor
    rows: torch.Tensor

    def looking(self) -> AbstractContextManager[None]:
        """Around each step of the model."""
        return self.tap.into(self._fold)

    def _fold(self, _: int, q: torch.Tensor, k: torch.Tensor) -> None:
        """One layer of one step. Tokens beyond the prompt are the reply's."""
        num_queries, num_keys = q.shape[2], k.shape[2]
        beyond = torch.full((max(0, num_keys - len(self.segments)),), len(self.texts))
        of_keys = torch.cat([self.segments[:num_keys], beyond]).to(q.device)
        rows = self.rows.to(q.device).unsqueeze(0)
        segment_attention(
            q[0].transpose(0, 1),
            k[0].transpose(0, 1),
            None,
            of_keys[num_keys - num_queries :],
            of_keys,
            torch.tensor([0, num_queries]),
            torch.tensor([0, num_keys]),
            causal=True,
            mode="adjacent",
            accumulate_into=rows,
        )
        self.rows = rows[0]

    def finish(self, reply: str) -> None:
        """Hand over what was seen, the reply's own row included."""
        self.into.note([*self.texts, reply], self.rows.cpu().numpy())


def _key(previous: str, text: str) -> bytes:
    """Equal texts up to surrounding space, as the log keeps them."""
    digest = hashlib.blake2b(digest_size=16, key=_SECRET)
    for part in (previous.strip(), text.strip()):
        digest.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogatepass"))
    return digest.digest()
