"""TokenClassifier of a causal model: a word matters if the model did not see it coming.

The second compressor of the method: a token's cross-entropy, given all before it in the window, says how much it adds.
Words, protection and rate are those of the other classifiers. Attention between texts comes from the same forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.errors import ConfigError, InvalidInput
from lightmem_engine.models.checkpoint import progress_on_terminals_only
from lightmem_engine.models.tap import Tap, last_third
from lightmem_engine.models.window_pass import shares
from lightmem_engine.text import scored_words
from lightmem_engine.types import Floats, Window, WindowScores, Word
from lightmem_kernels import segment_attention

_MAX_TOKENS = 4096  # of a window, where the model reads more
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
_LOGIT_ROWS = 256  # places whose whole vocabulary is looked at together


@dataclass(frozen=True, slots=True)
class _LaidOut:
    """A window as one sequence: a start token, then the texts, a line break between them.

    segments: the text of each token, -1 for those between.   offsets: int64 [t, 2] per text, characters of its tokens.
    """

    ids: list[int]
    segments: list[int]
    offsets: list[np.ndarray[Any, np.dtype[np.int64]]]


class EntropyClassifier:
    """Scores words in nats: the mean cross-entropy of a word's tokens under a causal language model."""

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, layers: Sequence[int] = (), edge_tokens: int = 1
    ) -> None:
        """model: a decoder of transformers.   layers, edge_tokens: where the attention between texts is read."""
        self.name = f"entropy({name})"
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        self._tap = Tap(model, layers or last_third(model))
        self._edge_tokens = edge_tokens
        self.max_tokens = min(int(model.config.max_position_embeddings), _MAX_TOKENS)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id
        self._start = int(tokenizer.eos_token_id if start is None else start)
        self._break: list[int] = tokenizer("\n", add_special_tokens=False)["input_ids"]

    @classmethod
    def load(
        cls, source: str, *, device: str, dtype: torch.dtype, layers: Sequence[int] = (), edge_tokens: int = 1
    ) -> EntropyClassifier:
        """Load a path or a hub name. Raises `ConfigError` if there is none or it is no causal model."""
        progress_on_terminals_only()
        try:
            AutoConfig.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load a causal language model from {source!r}: {error}") from error
        return cls(model, tokenizer, name=source, layers=layers, edge_tokens=edge_tokens)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, the line break between texts included."""
        found = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return [len(ids) + len(self._break) for ids in found]

    @torch.inference_mode()
    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One pass over all windows. A window longer than `max_tokens` raises `InvalidInput`."""
        layouts = self._lay_out(windows)
        results: dict[int, WindowScores] = {}
        for batch in _batches(layouts, _BATCH_TOKENS[self._model.device.type]):
            surprise, rows = self._read([layouts[i] for i in batch])
            for place, i in enumerate(batch):
                words = _words(windows[i], layouts[i], surprise[place])
                results[i] = WindowScores(words, *shares(rows[place, : len(windows[i].texts)]))
        return [results[i] for i in range(len(windows))]

    def _lay_out(self, windows: Sequence[Window]) -> list[_LaidOut]:
        layouts = []
        for number, window in enumerate(windows):
            if not 0 <= window.num_context <= len(window.texts) or not window.texts:
                raise InvalidInput(f"window {number}: {window.num_context} context texts among {len(window.texts)}")
            found = self._tokenizer(list(window.texts), add_special_tokens=False, return_offsets_mapping=True)
            ids, segments = [self._start], [-1]
            for text, own in enumerate(found["input_ids"]):
                ids += [*own, *self._break]
                segments += [*[text] * len(own), *[-1] * len(self._break)]
            if len(ids) > self.max_tokens:
                raise InvalidInput(f"window {number} has {len(ids)} tokens, the model reads {self.max_tokens}")
            offsets = [np.asarray(own, np.int64).reshape(-1, 2) for own in found["offset_mapping"]]
            layouts.append(_LaidOut(ids, segments, offsets))
        return layouts

    def _read(self, layouts: Sequence[_LaidOut]) -> tuple[Floats, Floats]:
        """Cross-entropy float32 [batch, T] of each token (0 for the first), and attention float32 [batch, n, 3] from
        each text to the one before it, to all earlier ones and to itself."""
        device = self._model.device
        longest = max(len(layout.ids) for layout in layouts)
        # A causal model never sees padding from the left of it, so no mask is needed.
        ids = torch.tensor([[*layout.ids, *[self._start] * (longest - len(layout.ids))] for layout in layouts])
        ids = ids.to(device)
        inner = torch.tensor([self._inner(layout, longest) for layout in layouts], device=device).flatten()
        bounds = torch.arange(len(layouts) + 1) * longest
        num_texts = max(len(layout.offsets) for layout in layouts)
        rows = torch.zeros(len(layouts), num_texts, 3, device=device)

        def fold(_: int, q: torch.Tensor, k: torch.Tensor) -> None:
            packed_q, packed_k = (part.transpose(1, 2).flatten(0, 1) for part in (q, k))
            segment_attention(
                packed_q,
                packed_k,
                None,
                inner,
                inner,
                bounds,
                bounds,
                causal=True,
                mode="adjacent",
                accumulate_into=rows,
            )

        with self._tap.into(fold):
            hidden = self._model.model(input_ids=ids, use_cache=False).last_hidden_state
        surprise = torch.zeros(ids.shape, device=device)
        for i in range(0, longest - 1, _LOGIT_ROWS):
            places = slice(i, min(i + _LOGIT_ROWS, longest - 1))
            logits = self._model.lm_head(hidden[:, places]).float()
            following = ids[:, places.start + 1 : places.stop + 1]
            found = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
            surprise[:, places.start + 1 : places.stop + 1] = found.view(following.shape)
        return surprise.cpu().numpy(), rows.cpu().numpy()

    def _inner(self, layout: _LaidOut, length: int) -> list[int]:
        """Segments without the tokens at either end of the window, padded."""
        kept, edge = list(layout.segments), self._edge_tokens
        for place in (*range(min(edge, len(kept))), *range(max(0, len(kept) - edge), len(kept))):
            kept[place] = -1
        return [*kept, *[-1] * (length - len(kept))]


def _batches(layouts: Sequence[_LaidOut], max_tokens: int) -> Iterator[list[int]]:
    """Windows of similar length together, so many that they fit, at least one."""
    batch: list[int] = []
    for i in sorted(range(len(layouts)), key=lambda i: len(layouts[i].ids)):
        if batch and (len(batch) + 1) * len(layouts[i].ids) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _words(window: Window, layout: _LaidOut, surprise: Floats) -> tuple[tuple[Word, ...], ...]:
    segments = np.asarray(layout.segments)
    found: list[tuple[Word, ...]] = []
    for text, offsets in enumerate(layout.offsets):
        own = surprise[: len(segments)][segments == text]
        spans = scored_words(window.texts[text]) if text >= window.num_context else ()
        found.append(tuple(Word(start, end, _mean(own, offsets, start, end)) for start, end in spans))
    return tuple(found)


def _mean(surprise: Floats, offsets: Any, start: int, end: int) -> float:
    """Of the tokens that reach into characters [start, end); nan if there are none."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left"))
    return float(surprise[first:last].mean()) if first < last else float("nan")
