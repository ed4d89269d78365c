"""TokenClassifier over any LLMLingua-2 checkpoint: mBERT and XLM-R families, one pass over a window of turns."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence

import torch

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.encoder import Encoder, check_layers
from lightmem_engine.models.window_pass import WindowPass, read_windows
from lightmem_engine.types import Window, WindowScores, Word

_META = "\u2581"  # how SentencePiece writes the space before a word


class LlmLinguaClassifier:
    """Keep-probabilities as LLMLingua-2 computes them: softmax over (drop, keep), averaged over the tokens of a word.

    A token begins a word unless it carries the tokenizer's continuation mark (mBERT: "##"; XLM-R: no "▁", punctuation
    apart). Characters unknown to the vocabulary belong to no word, so they count as dropped. One difference is meant:
    a window holds several turns with true special tokens around them, not one message padded to the full length.
    """

    def __init__(
        self, encoder: Encoder, *, layers: Sequence[int] = (), edge_tokens: int = 1, score_words: bool = True
    ) -> None:
        """`encoder` must have been loaded with its labels (drop, keep); another head is a `ConfigError`.

        layers, edge_tokens: where the attention between texts is read, see `read_windows`.
        Without `score_words` only the attention between texts is computed and texts come back without words.
        """
        if encoder.body.labels != 2:
            raise ConfigError(
                f"{encoder.checkpoint.directory} has no two-label token classifier, so it is no LLMLingua-2"
            )
        self.encoder = encoder
        self._score_words, self._edge_tokens = score_words, edge_tokens
        self.layers = check_layers(layers, encoder)
        self.name = f"llmlingua({encoder.checkpoint.name})"
        self.max_tokens = encoder.max_tokens
        tokens: list[str] = encoder.tokenizer.convert_ids_to_tokens(range(len(encoder.tokenizer)))
        is_bert = encoder.family == "bert"
        self._begins = torch.tensor([_begins_word(token, is_bert) for token in tokens])
        self._blank = torch.tensor([token == _META for token in tokens])
        self._special = torch.zeros(len(tokens), dtype=torch.bool)
        self._special[encoder.tokenizer.all_special_ids] = True

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return self.encoder.count(texts)

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One pass over all windows. A window longer than `max_tokens` raises `InvalidInput`."""
        results: dict[int, WindowScores] = {}
        for found in read_windows(
            self.encoder, windows, layers=self.layers, edge_tokens=self._edge_tokens, logits=self._score_words
        ):
            results[found.index] = WindowScores(self._words(windows[found.index], found), found.attention, found.mass)
        return [results[i] for i in range(len(windows))]

    def _words(self, window: Window, found: WindowPass) -> tuple[tuple[Word, ...], ...]:
        if found.logits is None:
            return ((),) * len(window.texts)
        keep = found.logits.softmax(-1)[:, 1].tolist()
        return tuple(
            tuple(self._merged(window.texts[t], found, t, keep)) if t >= window.num_context else ()
            for t in range(len(window.texts))
        )

    def _merged(self, text: str, found: WindowPass, number: int, keep: Sequence[float]) -> Iterator[Word]:
        """Words of one text. A turn's first token begins a word even if it looks like a continuation."""
        inner = torch.tensor(found.layout.ids[1:-1])
        begins, special = self._begins[inner].tolist(), self._special[inner].tolist()
        blank = self._blank[inner].tolist()
        group: list[int] = []
        tokens = found.layout.tokens_of(number)
        for place in range(tokens.start, tokens.stop):
            if special[place]:
                continue
            if begins[place]:
                yield from _word(text, found, group, blank, keep)
                group = []
            group.append(place)
        yield from _word(text, found, group, blank, keep)


def _word(
    text: str, found: WindowPass, group: Sequence[int], blank: Sequence[bool], keep: Sequence[float]
) -> Iterator[Word]:
    """The word of a group of tokens, if any of them stands for something visible."""
    if all(blank[place] for place in group):
        return
    start, end = int(found.layout.offsets[group[0], 0]), int(found.layout.offsets[group[-1], 1])
    while start < end and text[start].isspace():
        start += 1
    if start < end:
        yield Word(start, end, sum(keep[place] for place in group) / len(group))


def _begins_word(token: str, is_bert: bool) -> bool:
    if is_bert:
        return not token.startswith("##")
    return token.startswith(_META) or token in string.punctuation
