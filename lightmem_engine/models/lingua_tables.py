"""What LLMLingua-2 does with each token of a vocabulary, as tables by token id; and its two tokenizer families.

The published package decides token by token, from strings, while it walks a text. Nothing of that depends on the text,
so it is decided once per vocabulary and set of options.
"""

from __future__ import annotations

import copy
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers.decoders import Metaspace, WordPiece

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.word_tokens import LONGEST_WORD, WordTokens
from lightmem_engine.text import word_cache

Family = Literal["bert", "xlm-roberta"]
SpecialTokens = Literal["package", "fixed"]
Flags = npt.NDArray[np.bool_]

MAX_FORCE_TOKENS = 100
_META = "\u2581"  # how SentencePiece writes the space before a word
_DIGIT = re.compile(r"\d")
# The package surrounds and pads with the strings of mBERT whatever the model; XLM-R reads them as unknown tokens.
_PACKAGE_BEGIN, _PACKAGE_END, _PACKAGE_PAD = "[CLS]", "[SEP]", "[PAD]"


class Split(NamedTuple):
    """One text as tokens: their strings and their ids."""

    tokens: list[str]
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Rules:
    """Tables by token id for one set of options.

    begins: the token opens a word.   forced: its probability counts as 1.
    heads: what a word that opens with it reads like.   tails: what it adds to a word that is open.
    swaps: forced tokens that the tokenizer would split, and the added token each is written as meanwhile.
    """

    begins: Flags
    forced: Flags
    heads: Sequence[str]
    tails: Sequence[str]
    swaps: dict[str, str]

    def swapped(self, text: str) -> str:
        """The text with each such forced token written as one token."""
        for original, added in self.swaps.items():
            text = text.replace(original, added)
        return text

    def restored(self, text: str) -> str:
        """The text with the forced tokens back."""
        for original, added in self.swaps.items():
            text = text.replace(added, original)
        return text


class LinguaVocabulary:
    """A tokenizer as the package uses it, with its hundred added tokens [NEW0] to [NEW99].

    tokens: every token by id.   special: flags by id of those that never belong to a word; unknown is one of them.
    begin, end: ids around a chunk.   pad: the token string that is hidden from attention.
    """

    def __init__(self, tokenizer: Any, family: Family, *, special_tokens: SpecialTokens = "package") -> None:
        """`tokenizer` is copied, not changed. `special_tokens`: the package's, quirk included, or the model's own."""
        own = copy.deepcopy(tokenizer)
        named = {value for name, value in own.special_tokens_map.items() if name != "additional_special_tokens"}
        self.added = tuple(f"[NEW{i}]" for i in range(MAX_FORCE_TOKENS))
        own.add_special_tokens({"additional_special_tokens": list(self.added)})
        backend = own.backend_tokenizer
        if backend.decoder is None:
            raise ConfigError("the tokenizer has no decoder, so words could not be put back together")
        self._backend: Any = backend
        self._words = WordTokens(backend)
        # These two decoders write each token but the first without a look at its neighbours.
        is_wordwise = isinstance(backend.decoder, WordPiece | Metaspace)
        self._next = word_cache(1 << 16)(self._written) if is_wordwise else None
        self._tokenizer: Any = own
        self.family = family
        self.tokens: list[str] = [token or "" for token in own.convert_ids_to_tokens(range(len(own)))]
        self.special: Flags = np.array([token in named for token in self.tokens], np.bool_)
        if special_tokens == "package":
            begin, end, self.pad = _PACKAGE_BEGIN, _PACKAGE_END, _PACKAGE_PAD
        else:
            begin, end, self.pad = own.cls_token, own.sep_token, own.pad_token
        self.begin, self.end = (int(own.convert_tokens_to_ids(token)) for token in (begin, end))
        self._rules: dict[tuple[tuple[str, ...], bool], Rules] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, texts: Sequence[str]) -> list[Split]:
        """Tokens of each text, without special tokens around them."""
        if self._words.is_wordwise:
            return [Split([self.tokens[i] for i in ids], ids) for ids in self._words.ids(texts)]
        found = self._backend.encode_batch(list(texts), add_special_tokens=False) if texts else []
        return [Split(encoding.tokens, encoding.ids) for encoding in found]

    def join(self, tokens: Sequence[str]) -> str:
        """The text that tokens, or merged words, stand for."""
        if self._next is None or not tokens:
            return self._decoded(tokens)
        known, read = self._next, self._written
        rest = [known(token) if len(token) <= LONGEST_WORD else read(token) for token in tokens[1:]]
        return "".join((self._decoded(tokens[:1]), *rest))

    def _written(self, token: str) -> str:
        """What a token adds to those before it."""
        return self._decoded(["a", token])[1:]

    def _decoded(self, tokens: Sequence[str]) -> str:
        text: str = self._backend.decoder.decode(list(tokens))
        return text

    def rules(self, options: LinguaOptions) -> Rules:
        """The tables for these options; kept for the next call with the same ones."""
        key = (options.force_tokens, options.force_reserve_digit)
        if key not in self._rules:
            if len(self._rules) > 8:
                self._rules.clear()
            self._rules[key] = self._build(*key)
        return self._rules[key]

    def _build(self, force_tokens: tuple[str, ...], digits: bool) -> Rules:
        pieces = [len(split.tokens) for split in self.split(force_tokens)]
        swaps = {t: self.added[i] for i, t in enumerate(force_tokens) if pieces[i] != 1}
        forced_words = {*force_tokens, *swaps.values()}
        strip = "#" if self.family == "bert" else _META
        tails = [token.lstrip(strip) for token in self.tokens]
        if self.family == "bert":
            begins = [
                tail in forced_words or not token.startswith("##")
                for token, tail in zip(self.tokens, tails, strict=True)
            ]
        else:
            # `in` on the string of punctuation marks: any run of them that stands there in this order counts.
            begins = [
                token.startswith(_META) or token in string.punctuation or token in forced_words for token in self.tokens
            ]
        restore = Rules(np.zeros(0, np.bool_), np.zeros(0, np.bool_), (), (), swaps).restored
        heads = [restore(token) for token in self.tokens] if swaps else self.tokens
        forced = [
            (begin and tail in forced_words) or (digits and _DIGIT.search(head if begin else token) is not None)
            for begin, token, head, tail in zip(begins, self.tokens, heads, tails, strict=True)
        ]
        return Rules(np.array(begins, np.bool_), np.array(forced, np.bool_), heads, tails, swaps)
