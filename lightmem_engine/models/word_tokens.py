"""Tokens of texts. Where a tokenizer never looks across white space, words met before are not tokenized again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from lightmem_engine.text import word_cache

Offsets = npt.NDArray[np.int64]

LONGEST_WORD = 48  # characters of what is worth remembering
_USUAL_WORD = 16  # characters; beyond, on average, a text is in a script without spaces, or no text


class _Word(NamedTuple):
    """ids: of its tokens.   spans: start and end of each among its characters, one after the other."""

    ids: tuple[int, ...]
    spans: tuple[int, ...]


class WordTokens:
    """A fast tokenizer without special tokens around texts, without truncation and padding."""

    def __init__(self, backend: Any) -> None:
        """`backend` stops truncating and padding."""
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.is_wordwise = _is_wordwise(backend)
        self._word = word_cache(1 << 16)(self._read)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        words = [self._words(text) for text in texts]
        rest = [text for text, own in zip(texts, words, strict=True) if own is None]
        read = iter(self._backend.encode_batch_fast(rest, add_special_tokens=False) if rest else ())
        return [
            next(read).ids if own is None else [token for word in self._found(own) for token in word.ids]
            for own in words
        ]

    def with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], Offsets]]:
        """Token ids of each text and, int64 [t, 2], the characters [start, end) that each token stands for."""
        words = [self._words(text) for text in texts]
        rest = [text for text, own in zip(texts, words, strict=True) if own is None]
        read = iter(self._backend.encode_batch(rest, add_special_tokens=False) if rest else ())
        return [_listed(next(read)) if own is None else _placed(own, self._found(own)) for own in words]

    def _words(self, text: str) -> list[str] | None:
        """What stands between single characters of white space, empty strings included; None where there is little."""
        if not self.is_wordwise:
            return None
        words = text.replace("\n", " ").split(" ")
        return words if len(text) <= _USUAL_WORD * len(words) else None

    def _found(self, words: Sequence[str]) -> list[_Word]:
        known, read = self._word, self._read
        return [known(word) if len(word) <= LONGEST_WORD else read(word) for word in words]

    def _read(self, word: str) -> _Word:
        encoding = self._backend.encode(word, add_special_tokens=False)
        return _Word(tuple(encoding.ids), tuple(chain.from_iterable(encoding.offsets)))


def _listed(encoding: Any) -> tuple[list[int], Offsets]:
    return encoding.ids, np.array(encoding.offsets, np.int64).reshape(-1, 2)


def _placed(words: Sequence[str], found: Sequence[_Word]) -> tuple[list[int], Offsets]:
    ids = [token for word in found for token in word.ids]
    starts = list(accumulate((len(word) + 1 for word in words[:-1]), initial=0))
    spans = np.fromiter(chain.from_iterable(word.spans for word in found), np.int64, 2 * len(ids))
    return ids, (spans + np.repeat(starts, [len(word.spans) for word in found])).reshape(-1, 2)


def _is_wordwise(backend: Any) -> bool:
    """BERT's pipeline goes character by character and splits at white space before it looks for tokens."""
    plain = (
        isinstance(backend.normalizer, BertNormalizer)
        and isinstance(backend.pre_tokenizer, BertPreTokenizer)
        and isinstance(backend.model, WordPiece)
    )
    added = backend.get_added_tokens_decoder().values()
    return plain and all(
        len(token.content.split()) == 1 and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        for token in added
    )
