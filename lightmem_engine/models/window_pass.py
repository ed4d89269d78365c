"""One encoder pass over windows of texts: tokens laid out, attention between the texts reduced on the fly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.encoder import Batch, Encoder
from lightmem_engine.models.packed import Captured
from lightmem_engine.models.word_tokens import Offsets
from lightmem_engine.types import Floats, Window
from lightmem_kernels import segment_attention

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A window as one sequence: begin, the texts without separators, end. A text may have no tokens at all.

    ids: token ids, specials included.   bounds: [n + 1], where each text begins and ends among them, specials left out.
    segments: int64 [T], the text each token belongs to, -1 for specials.
    offsets: int64 [T - 2, 2], characters of its text that each token (specials left out) stands for.
    """

    ids: list[int]
    bounds: list[int]
    segments: torch.Tensor
    offsets: Offsets

    @property
    def num_texts(self) -> int:
        """How many texts the window has."""
        return len(self.bounds) - 1

    def tokens_of(self, text: int) -> slice:
        """Places of a text's tokens, specials not counted."""
        return slice(self.bounds[text], self.bounds[text + 1])


@dataclass(frozen=True, slots=True)
class WindowPass:
    """What one pass says of window `index`.

    received: float32 [T - 2], attention mass each token gets in the last layer, per head; None if not asked for.
    keep: float64 [T - 2], how probable the second of two labels is; None if not asked for.
    attention, mass: as in `WindowScores`.
    """

    index: int
    layout: LaidOut
    attention: Floats
    mass: Floats
    received: Floats | None
    keep: Doubles | None


def lay_out(encoder: Encoder, windows: Sequence[Window]) -> list[LaidOut]:
    """Token layout of each window; one longer than the model's positions, or without texts, is `InvalidInput`."""
    found = iter(encoder.words.with_offsets([text for window in windows for text in window.texts]))
    layouts = []
    for number, window in enumerate(windows):
        if not 0 <= window.num_context <= len(window.texts) or not window.texts:
            raise InvalidInput(f"window {number}: {window.num_context} context texts among {len(window.texts)}")
        tokens, offsets = zip(*itertools.islice(found, len(window.texts)), strict=True)
        ids = [encoder.begin, *itertools.chain.from_iterable(tokens), encoder.end]
        if len(ids) > encoder.max_tokens:
            raise InvalidInput(f"window {number} has {len(ids)} tokens, the model reads {encoder.max_tokens}")
        sizes = [len(own) for own in tokens]
        segments = torch.full((len(ids),), -1)
        segments[1:-1] = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        bounds = list(itertools.accumulate(sizes, initial=0))
        layouts.append(LaidOut(ids, bounds, segments, np.concatenate(offsets)))
    return layouts


def read_windows(
    encoder: Encoder,
    windows: Sequence[Window],
    *,
    layers: Sequence[int],
    edge_tokens: int = 1,
    received: bool = False,
    keep: bool = False,
) -> Iterator[WindowPass]:
    """Run every window once, windows of similar length together; results come in any order.

    Attention between texts is read in `layers`, without the first and last `edge_tokens` of a window, special tokens
    counted; no map of it is kept. Without `keep` the pass ends there.
    """
    layouts = lay_out(encoder, windows)
    for batch in encoder.batches([layout.ids for layout in layouts]):
        reduction = _Reduction(encoder, batch, [layouts[row] for row in batch.rows], layers, edge_tokens, received)
        hidden = encoder.forward(batch, layers=reduction.wanted(), sink=reduction, hidden=keep)
        yield from reduction.passes(None if hidden is None else encoder.body.classify(hidden))


class _Reduction:
    """Folds q and k of one batch, layer by layer, into sums per text and per token."""

    def __init__(
        self,
        encoder: Encoder,
        batch: Batch,
        layouts: Sequence[LaidOut],
        layers: Sequence[int],
        edge_tokens: int,
        received: bool,
    ) -> None:
        self.batch, self.layouts, self.layers = batch, layouts, tuple(layers)
        self.num_heads, self.last = encoder.num_heads, encoder.num_layers - 1
        self.bounds = batch.bounds()
        device = batch.ids.device
        segments = torch.cat([layout.segments for layout in layouts])
        self.segments = segments.to(device)
        self.inner = _inner(segments, self.bounds, edge_tokens).to(device)
        num_texts = max(layout.num_texts for layout in layouts)
        self.adjacent = torch.zeros(len(layouts), num_texts, 3, device=device)
        self.received = torch.zeros(len(self.segments), device=device) if received else None

    def wanted(self) -> tuple[int, ...]:
        return tuple(sorted({*self.layers, *([self.last] if self.received is not None else [])}))

    def __call__(self, captured: Captured) -> None:
        if captured.layer in self.layers:
            self._reduce(captured, self.inner, "adjacent", self.adjacent)
        if captured.layer == self.last and self.received is not None:
            self._reduce(captured, self.segments, "received", self.received)

    def _reduce(self, captured: Captured, segments: torch.Tensor, mode: Any, into: torch.Tensor) -> None:
        bounds = self.bounds
        segment_attention(
            captured.q,
            captured.k,
            captured.lse,
            segments,
            segments,
            bounds,
            bounds,
            causal=False,
            mode=mode,
            accumulate_into=into,
        )

    def passes(self, logits: torch.Tensor | None) -> Iterator[WindowPass]:
        attention, mass = shares(self.adjacent.cpu().numpy())
        bounds = self.bounds.tolist()
        received = None if self.received is None else (self.received / self.num_heads).cpu().numpy()
        keep = None if logits is None else logits.softmax(-1)[:, 1].double().cpu().numpy()
        for i, (row, layout) in enumerate(zip(self.batch.rows, self.layouts, strict=True)):
            inner = slice(bounds[i] + 1, bounds[i + 1] - 1)
            yield WindowPass(
                index=row,
                layout=layout,
                attention=attention[i, : layout.num_texts],
                mass=mass[i, : layout.num_texts],
                received=None if received is None else received[inner],
                keep=None if keep is None else keep[inner],
            )


def shares(adjacent: Floats) -> tuple[Floats, Floats]:
    """`attention` and `mass` of `WindowScores`, float32 [..., n], from the sums of mode `adjacent`, [..., n, 3]."""
    to_previous, to_earlier, to_itself = np.moveaxis(adjacent, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        attention = np.where(to_earlier > 0, to_previous / to_earlier, np.nan).astype(np.float32)
        mass = (to_previous / (to_previous + to_itself)).astype(np.float32)
    attention[..., :1] = mass[..., :1] = np.nan
    return attention, mass


def _inner(segments: torch.Tensor, bounds: torch.Tensor, edge_tokens: int) -> torch.Tensor:
    """The segments without the tokens at either end of a window; none at all where the ends meet."""
    kept = segments.clone()
    first, last = bounds[:-1], bounds[1:] - 1
    for place in range(edge_tokens):
        kept[torch.minimum(first + place, last)] = -1
        kept[torch.maximum(last - place, first)] = -1
    return kept
