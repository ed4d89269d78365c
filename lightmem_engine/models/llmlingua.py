"""TokenClassifier over any LLMLingua-2 checkpoint: mBERT and XLM-R families, one pass over a window of turns."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Sequence

import numpy as np

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.encoder import Encoder, check_layers
from lightmem_engine.models.lingua_plan import Ints
from lightmem_engine.models.lingua_select import left_to_right
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
        self._begins = np.array([_begins_word(token, is_bert) for token in tokens])
        self._visible = np.array([token != _META for token in tokens])
        self._special = np.zeros(len(tokens), np.bool_)
        self._special[encoder.tokenizer.all_special_ids] = True

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return self.encoder.count(texts)

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One pass over all windows. A window longer than `max_tokens` raises `InvalidInput`."""
        passes = sorted(
            read_windows(
                self.encoder, windows, layers=self.layers, edge_tokens=self._edge_tokens, keep=self._score_words
            ),
            key=lambda found: found.index,
        )
        if not passes or not self._score_words:
            return [WindowScores(((),) * found.layout.num_texts, found.attention, found.mass) for found in passes]
        words = self._words(windows, passes)
        return [WindowScores(own, found.attention, found.mass) for own, found in zip(words, passes, strict=True)]

    def _words(self, windows: Sequence[Window], passes: Sequence[WindowPass]) -> list[tuple[tuple[Word, ...], ...]]:
        """Words of all windows. A text's first token begins one even if it looks like a continuation."""
        texts = [text for window in windows for text in window.texts]
        sizes = [b - a for found in passes for a, b in itertools.pairwise(found.layout.bounds)]
        ids = np.fromiter(itertools.chain.from_iterable(found.layout.ids[1:-1] for found in passes), np.int64)
        is_new = np.repeat([t >= window.num_context for window in windows for t in range(len(window.texts))], sizes)
        chosen = np.flatnonzero(is_new & ~self._special[ids])
        ids, owners = ids[chosen], np.repeat(np.arange(len(texts)), sizes)[chosen]
        keep = np.concatenate([found.keep for found in passes if found.keep is not None])[chosen]
        offsets = np.concatenate([found.layout.offsets for found in passes])[chosen]
        firsts = np.flatnonzero(self._begins[ids] | (np.diff(owners, prepend=-1) > 0))
        lengths = np.diff(firsts, append=len(ids))
        ends = offsets[firsts + lengths - 1, 1]
        starts = _without_space(texts, owners[firsts], offsets[firsts, 0], ends)
        shown = np.cumsum(np.append(0, self._visible[ids]))
        real = np.flatnonzero((starts < ends) & (shown[firsts + lengths] > shown[firsts]))
        means = left_to_right(keep, firsts, lengths) / lengths
        words = [*map(Word, starts[real].tolist(), ends[real].tolist(), means[real].tolist())]
        edges = np.searchsorted(owners[firsts[real]], np.arange(len(texts) + 1)).tolist()
        of_texts = (tuple(words[a:b]) for a, b in itertools.pairwise(edges))
        return [tuple(itertools.islice(of_texts, len(window.texts))) for window in windows]


def _without_space(texts: Sequence[str], owners: Ints, starts: Ints, ends: Ints) -> Ints:
    """Where words begin that some tokenizers begin with the space before them."""
    whole = "".join(texts)
    spaces = np.zeros(len(whole) + 1, np.bool_)
    spaces[[space.start() for space in re.finditer(r"\s", whole)]] = True
    at = np.cumsum([0, *map(len, texts)])[owners]
    while (blank := spaces[at + starts] & (starts < ends)).any():
        starts = starts + blank
    return starts


def _begins_word(token: str, is_bert: bool) -> bool:
    if is_bert:
        return not token.startswith("##")
    return token.startswith(_META) or token in string.punctuation
