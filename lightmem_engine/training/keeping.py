"""What memory keeps of what was said: the engine's own compression and dating, with drawn scores."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lightmem_engine.config_sensory import CompressConfig
from lightmem_engine.sensory.compress import compress
from lightmem_engine.short_term.dates import date_spans
from lightmem_engine.short_term.extractive import merge
from lightmem_engine.text import STOPWORDS
from lightmem_engine.training import phrases
from lightmem_engine.types import Word

_RATES = (0.5, 0.6, 0.6, 0.6, 0.7, 0.8)  # the engine's default, and what others may set
_WORD = re.compile(r"\w+|[^\w\s]")
_STOPWORD, _MARK = -100.0, -200.0  # as the classifier ranks them
_RARE, _COMMON = 1.0, -0.7  # about where words stand that the embedder's vocabulary spells in pieces, and those it has
_PHRASES = (
    *(words for a in phrases.ATTRIBUTES for words in (a.topic, *a.say, *a.nouns)),
    *(*phrases.RELATIONS, *phrases.CHANGES, *phrases.OPENINGS, *phrases.CLOSINGS, *phrases.CHATTER),
)
_KNOWN = frozenset(word for phrase in _PHRASES for word in re.findall(r"\w+", phrase.lower()))


@dataclass(frozen=True, slots=True)
class Said:
    """A text, and words of it without which it tells nothing."""

    text: str
    needed: tuple[str, ...] = ()


def keep(rng: random.Random, said: Sequence[Said], day: datetime) -> list[str]:
    """Texts of one day as entries show them, compressed together: marks and stop words fall first, then what is common,
    with chance in the place of attention. Relative dates are resolved. A text that would lose what is needed stays
    whole: nobody can answer from what is gone, and training on it would teach to guess."""
    texts = [one.text for one in said]
    words = [list(_WORD.finditer(text)) for text in texts]
    told = Counter(word.group().lower() for own in words for word in own)
    scored = [
        [Word(word.start(), word.end(), _score(rng, word.group().lower(), told)) for word in own] for own in words
    ]
    usual = CompressConfig()
    short = compress(texts, scored, rate=rng.choice(_RATES), protect=usual.protect, whole_words=usual.whole_words)
    found = []
    for one, kept in zip(said, short, strict=True):
        spans = date_spans(one.text, day)
        shown = merge(one.text, kept, spans) if spans else kept
        found.append(shown if all(needed in shown for needed in one.needed) else one.text)
    return found


def _score(rng: random.Random, word: str, told: Counter[str]) -> float:
    kind = _STOPWORD if word in STOPWORDS else 0.0 if any(c.isalnum() for c in word) else _MARK
    return kind + (_COMMON if word in _KNOWN else _RARE) + rng.gauss(0.0, 1.0) - math.log(told[word])
