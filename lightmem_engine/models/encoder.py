"""BERT and XLM-R encoders: one loaded body, batches of packed length, attention inputs on request; and the embedder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.checkpoint import Checkpoint, progress_on_terminals_only
from lightmem_engine.types import Vectors

# Padded tokens of one forward on a CPU: enough to fill the matrix multiplications, small enough to stay in cache.
BATCH_TOKENS = 8192

_FAMILIES = ("bert", "xlm-roberta", "roberta", "camembert")


@dataclass(frozen=True, slots=True)
class Batch:
    """One padded forward. `rows` are places in the caller's list; `ids` and `mask` are [b, T], `lengths` [b]."""

    rows: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    lengths: list[int]

    def flat(self) -> torch.Tensor:
        """Places of the real tokens in the flattened [b * T]."""
        return self.mask.flatten().nonzero().squeeze(1)

    def bounds(self) -> torch.Tensor:
        """int64 [b + 1], where each row begins once padding is gone."""
        return torch.tensor([0, *np.cumsum(self.lengths)], device=self.mask.device)


@dataclass(frozen=True, slots=True)
class Captured:
    """What one layer's attention was computed from: q and k, each [tokens, heads, d], padding gone."""

    layer: int
    q: torch.Tensor
    k: torch.Tensor


class Encoder:
    """A loaded checkpoint with its tokenizer on one device. Not for concurrent calls; a device worker serialises them.

    max_tokens: longest sequence, special tokens included.   num_layers: attention layers, counted from 0.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        labels: bool = False,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Load the weights; `labels` adds the token-classification head. An unfit checkpoint is a `ConfigError`."""
        config = _read_config(checkpoint)
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.tokenizer: Any = _load_tokenizer(checkpoint)
        progress_on_terminals_only()
        loader = AutoModelForTokenClassification if labels else AutoModel
        with _no_progress_bar():
            try:
                model = loader.from_pretrained(checkpoint.directory, dtype=dtype, attn_implementation="sdpa")
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise ConfigError(f"{checkpoint.directory} cannot be loaded: {error}") from error
        self.model: Any = model.to(self.device).eval().requires_grad_(False)
        self.num_layers = int(config.num_hidden_layers)
        self.num_heads = int(config.num_attention_heads)
        self.dim = int(config.hidden_size)
        self.batch_tokens = batch_tokens
        # XLM-R counts positions from the padding id + 1, so that many fewer tokens fit.
        skipped = 0 if config.model_type == "bert" else int(config.pad_token_id) + 1
        self.max_tokens = int(config.max_position_embeddings) - skipped
        self.begin, self.end = int(self.tokenizer.cls_token_id), int(self.tokenizer.sep_token_id)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        return list(found["input_ids"])

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(ids) for ids in self.tokenize(texts)]

    def last_third(self) -> tuple[int, ...]:
        """The layers whose attention is read unless the caller names others."""
        return tuple(range(self.num_layers - max(1, self.num_layers // 3), self.num_layers))

    def batches(self, sequences: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Sequences (with their special tokens) of similar length together, each batch below the token budget."""
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        rows: list[int] = []
        for row in by_length:
            if rows and len(sequences[row]) * (len(rows) + 1) > self.batch_tokens:
                yield self._pad(sequences, rows)
                rows = []
            rows.append(row)
        if rows:
            yield self._pad(sequences, rows)

    def _pad(self, sequences: Sequence[Sequence[int]], rows: list[int]) -> Batch:
        lengths = [len(sequences[row]) for row in rows]
        ids = torch.full((len(rows), max(lengths)), int(self.tokenizer.pad_token_id), dtype=torch.long)
        mask = torch.zeros(ids.shape, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = torch.as_tensor(sequences[row], dtype=torch.long)
            mask[i, : lengths[i]] = 1
        return Batch(rows, ids.to(self.device), mask.to(self.device), lengths)

    @torch.inference_mode()
    def forward(
        self, batch: Batch, *, layers: Sequence[int] = (), sink: Callable[[Captured], None] | None = None
    ) -> Any:
        """Run the model on a batch; `sink` is called inside the pass, once per chosen layer, in order of layers."""
        # Without padding no mask: attention may then take its fastest path.
        mask = batch.mask if len(set(batch.lengths)) > 1 else None
        with self._captured(batch, layers, sink):
            return self.model(input_ids=batch.ids, attention_mask=mask)

    @contextmanager
    def _captured(self, batch: Batch, layers: Sequence[int], sink: Callable[[Captured], None] | None) -> Iterator[None]:
        """Hooks on the query and key projections; nothing of them outlives the pass."""
        if sink is None or not layers:
            yield
            return
        flat, stack = batch.flat(), self.model.base_model.encoder.layer
        queries: dict[int, torch.Tensor] = {}

        def heads(projected: torch.Tensor) -> torch.Tensor:
            return projected.flatten(0, 1)[flat].view(len(flat), self.num_heads, -1)

        def on_query(layer: int) -> Callable[..., None]:
            return lambda _module, _inputs, output: queries.__setitem__(layer, heads(output))

        def on_key(layer: int) -> Callable[..., None]:
            return lambda _module, _inputs, output: sink(Captured(layer, queries.pop(layer), heads(output)))

        handles = []
        for layer in layers:
            attention = stack[layer].attention.self
            handles.append(attention.query.register_forward_hook(on_query(layer)))
            handles.append(attention.key.register_forward_hook(on_key(layer)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading takes a moment; a bar in a log file helps nobody."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def check_layers(layers: Sequence[int], encoder: Encoder, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The chosen layers, or the default, or the last third; a layer the model lacks is a `ConfigError`."""
    wrong = [layer for layer in layers if not 0 <= layer < encoder.num_layers]
    if wrong:
        raise ConfigError(f"classifier.layers {wrong} are not among the model's 0..{encoder.num_layers - 1}")
    return tuple(layers) or default or encoder.last_third()


def _read_config(checkpoint: Checkpoint) -> Any:
    try:
        config = AutoConfig.from_pretrained(checkpoint.directory)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{checkpoint.directory}/config.json cannot be read: {error}") from error
    if config.model_type not in _FAMILIES:
        raise ConfigError(f"{checkpoint.directory} is a {config.model_type} model; known: {', '.join(_FAMILIES)}")
    return config


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.directory)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer in {checkpoint.directory}: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"{checkpoint.directory} needs a fast tokenizer (tokenizer.json)")
    return tokenizer


class SentenceEmbedder:
    """Embedder by mean pooling. `name` holds the digest of the weights: equal names, comparable vectors."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name = encoder.checkpoint.name
        self.dim = encoder.dim
        trained = encoder.checkpoint.read_json("sentence_bert_config.json").get("max_seq_length")
        self.max_tokens = min(encoder.max_tokens, int(trained or encoder.max_tokens))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return self.encoder.count(texts)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim] with unit rows, in the order of `texts`; a text beyond the trained length is cut."""
        encoder, room = self.encoder, self.max_tokens - 2
        sequences = [[encoder.begin, *ids[:room], encoder.end] for ids in encoder.tokenize(texts)]
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for batch in encoder.batches(sequences):
            hidden = encoder.forward(batch)[0].float()
            weights = batch.mask.unsqueeze(2).float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            vectors[batch.rows] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors
