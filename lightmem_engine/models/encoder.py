"""BERT and XLM-R encoders: one loaded body, packed batches, attention inputs on request; and the embedder."""

from __future__ import annotations

import itertools
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
from lightmem_engine.models.lingua_tables import Family
from lightmem_engine.models.packed import Captured, PackedBody
from lightmem_engine.models.word_tokens import WordTokens
from lightmem_engine.types import Vectors

# Tokens of one forward on a CPU: enough to fill the matrix multiplications, small enough to stay in cache.
BATCH_TOKENS = 8192

_FAMILIES = ("bert", "xlm-roberta", "roberta", "camembert")


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one forward, one after another without padding. `rows` are places in the caller's list, `ids` is
    [tokens], `lengths` [b]; `visible` [tokens] is None unless some token is hidden from the attention of the others."""

    rows: list[int]
    ids: torch.Tensor
    lengths: list[int]
    visible: torch.Tensor | None = None

    def bounds(self) -> torch.Tensor:
        """int64 [b + 1] on the CPU, where each sequence begins and ends."""
        return torch.tensor([0, *itertools.accumulate(self.lengths)])


class Encoder:
    """A loaded checkpoint with its tokenizer on one device. Not for concurrent calls; a device worker serialises them.

    max_tokens: longest sequence, special tokens included.   num_layers: attention layers, counted from 0.
    family: `bert` or `xlm-roberta`.   body: the weights.   words: its tokenizer.
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
        self.words = WordTokens(self.tokenizer.backend_tokenizer)
        progress_on_terminals_only()
        loader = AutoModelForTokenClassification if labels else AutoModel
        with _no_progress_bar():
            try:
                model = loader.from_pretrained(checkpoint.directory, dtype=dtype, attn_implementation="sdpa")
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise ConfigError(f"{checkpoint.directory} cannot be loaded: {error}") from error
        model.requires_grad_(False)
        self.family: Family = "bert" if config.model_type == "bert" else "xlm-roberta"
        self.body = PackedBody(model.to(self.device).eval())
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
        return self.words.ids(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(ids) for ids in self.tokenize(texts)]

    def last_third(self) -> tuple[int, ...]:
        """The layers whose attention is read unless the caller names others."""
        return tuple(range(self.num_layers - max(1, self.num_layers // 3), self.num_layers))

    def batches(
        self, sequences: Sequence[Sequence[int]], visible: Sequence[np.ndarray[Any, Any] | None] | None = None
    ) -> Iterator[Batch]:
        """Sequences (with their special tokens), shortest first, each batch below the token budget.

        visible: per sequence None, or bool [T], False for tokens that the others must not see.
        """
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        rows: list[int] = []
        held = 0
        for row in by_length:
            if rows and held + len(sequences[row]) > self.batch_tokens:
                yield self._pack(sequences, visible, rows)
                rows, held = [], 0
            rows.append(row)
            held += len(sequences[row])
        if rows:
            yield self._pack(sequences, visible, rows)

    def _pack(
        self, sequences: Sequence[Sequence[int]], visible: Sequence[np.ndarray[Any, Any] | None] | None, rows: list[int]
    ) -> Batch:
        lengths = [len(sequences[row]) for row in rows]
        flat = itertools.chain.from_iterable(sequences[row] for row in rows)
        ids = torch.from_numpy(np.fromiter(flat, np.int64, sum(lengths)))
        shown = None
        if visible is not None and any(visible[row] is not None for row in rows):
            flags = [visible[row] for row in rows]
            whole = [np.ones(n, np.bool_) if own is None else own for own, n in zip(flags, lengths, strict=True)]
            shown = torch.from_numpy(np.concatenate(whole)).to(self.device)
        return Batch(rows, ids.to(self.device), lengths, shown)

    @torch.inference_mode()
    def forward(
        self,
        batch: Batch,
        *,
        layers: Sequence[int] = (),
        sink: Callable[[Captured], None] | None = None,
        hidden: bool = True,
    ) -> torch.Tensor | None:
        """Hidden states [tokens, dim] of a batch; `sink` is called inside the pass, once per chosen layer, in order.

        Without `hidden` the result is None and the pass ends where the last chosen layer has said what it attends to.
        """
        return self.body.run(batch.ids, batch.lengths, visible=batch.visible, layers=layers, sink=sink, hidden=hidden)

    @torch.inference_mode()
    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states [tokens, dim] of a batch."""
        found = self.forward(batch)
        assert found is not None
        return found


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
            # The mean points where the sum does.
            vectors[batch.rows] = _sums(encoder.hidden(batch).float(), batch.lengths).cpu().numpy()
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _sums(hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """[b, dim], the tokens of each sequence added up."""
    if len(lengths) == 1:  # a question waiting for its answer
        return hidden.sum(0, keepdim=True)
    sizes = torch.tensor(lengths, device=hidden.device)
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), sizes)
    return hidden.new_zeros(len(lengths), hidden.shape[1]).index_add_(0, rows, hidden)
