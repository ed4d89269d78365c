"""LLMLingua-2 message by message: the text that the published package returns, in packed batches over all users."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.gpt_tokens import load_counter
from lightmem_engine.models.lingua_device import Asked, can_choose, choose, chooses
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_plan import MAX_CHUNK_TOKENS, Chunk, Planner, reduction
from lightmem_engine.models.lingua_select import Compressed, Read, select
from lightmem_engine.models.lingua_tables import LinguaVocabulary, SpecialTokens
from lightmem_engine.models.llmlingua import LlmLinguaClassifier


def load(
    config: EngineConfig, device: str, dtype: torch.dtype
) -> tuple[LlmLinguaClassifier, Callable[[Sequence[str]], list[str]] | None]:
    """The configured checkpoint as a classifier of windows and, in mode `per_message`, what compresses messages.

    Both share the weights. Raises what `Encoder`, `MessageCompressor` and `load_counter` raise.
    """
    chosen = config.classifier
    encoder = Encoder(locate(chosen.model), device=device, dtype=dtype, labels=True)
    is_alone = chosen.mode == "per_message"
    classifier = LlmLinguaClassifier(
        encoder, layers=chosen.layers, edge_tokens=config.segment.edge_tokens, score_words=not is_alone
    )
    if not is_alone:
        return classifier, None
    compressor = MessageCompressor(
        encoder, load_counter(), rate=config.compress.rate, special_tokens=chosen.special_tokens
    )
    return classifier, compressor.shorten


class MessageCompressor:
    """Compresses each text as a call of its own; the calls share tokenizer passes and forwards.

    Not for concurrent calls, like its encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        count: Callable[[str], int],
        *,
        rate: float = 0.5,
        special_tokens: SpecialTokens = "package",
    ) -> None:
        """`count`: GPT-3.5 tokens of a text.   rate: what `shorten` keeps.

        A checkpoint without a (drop, keep) head, or too small for the package's sequences, is a `ConfigError`.
        """
        where = encoder.checkpoint.directory
        if encoder.body.labels != 2:
            raise ConfigError(f"{where} has no two-label token classifier, so it is no LLMLingua-2")
        if encoder.max_tokens < MAX_CHUNK_TOKENS:
            raise ConfigError(f"{where} reads {encoder.max_tokens} tokens; LLMLingua-2 needs {MAX_CHUNK_TOKENS}")
        vocabulary = LinguaVocabulary(encoder.tokenizer, encoder.family, special_tokens=special_tokens)
        if encoder.body.vocabulary < len(vocabulary):
            raise ConfigError(
                f"{where} has {encoder.body.vocabulary} token embeddings; LLMLingua-2 adds a hundred tokens and needs "
                f"{len(vocabulary)}"
            )
        self._encoder = encoder
        self._planner = Planner(vocabulary, count)
        self._options = LinguaOptions(rate=rate)

    def shorten(self, texts: Sequence[str]) -> list[str]:
        """Each text at the configured rate; one of which nothing visible would be left stays as it is."""
        found = self.compress([[text] for text in texts], self._options)
        return [
            own.text if own.status == "compressed" and own.text.strip() else text
            for text, own in zip(texts, found, strict=True)
        ]

    def compress(self, calls: Sequence[Sequence[str]], options: LinguaOptions) -> list[Compressed]:
        """One outcome per call; a call is a list of contexts, as in the package's `compress_prompt`."""
        plans = self._planner.plan(calls, options)
        chunks, shares = [], []
        for plan in plans:
            own = [chunk for group in plan.chunks for chunk in group]
            chunks += own
            is_alone = not self._planner.has_filter(plan.contexts, options)
            shares += [reduction(options, plan.num_tokens) if is_alone else None] * len(own)
        read = iter(self._read(chunks, shares, options))
        found: list[list[list[Read]]] = [[[next(read) for _ in group] for group in plan.chunks] for plan in plans]
        return [select(self._planner, plan, own, options) for plan, own in zip(plans, found, strict=True)]

    @torch.inference_mode()
    def _read(self, chunks: Sequence[Chunk], shares: Sequence[float | None], options: LinguaOptions) -> list[Read]:
        """What the model says of each chunk, in the order of the chunks: on a GPU which words stay, where only that is
        asked. shares: to drop of each; None where its probabilities are needed."""
        found: list[Read] = [np.zeros(0, np.float32)] * len(chunks)
        on_device = chooses(self._encoder.device)
        for batch in self._encoder.batches([chunk.ids for chunk in chunks], [chunk.visible for chunk in chunks]):
            logits = self._encoder.body.classify(self._encoder.hidden(batch))
            keep = logits.softmax(-1)[:, 1]
            offsets = np.cumsum([0, *batch.lengths])
            asked = {
                row: Asked(words, int(offset), share)
                for row, offset in zip(batch.rows, offsets, strict=False)
                if on_device
                and (share := shares[row]) is not None
                and (words := chunks[row].words) is not None
                and can_choose(words, options)
            }
            for row, flags in zip(asked, choose(keep, [*asked.values()], options), strict=True):
                found[row] = flags
            if len(asked) < len(batch.rows):
                parts = np.split(keep.cpu().numpy(), offsets[1:-1])
                for row, own in zip(batch.rows, parts, strict=True):
                    if row not in asked:
                        found[row] = own
        return found
