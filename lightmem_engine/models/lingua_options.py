"""The options of one LLMLingua-2 call, named as the published package names them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lightmem_engine.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class LinguaOptions:
    """`rate` of a text to keep, in (0, 1]; above 1 counts as 1. Anything out of range is `InvalidInput`.

    target_token: keep about so many GPT-3.5 tokens instead; -1: `rate` decides.
    token_to_word: a word's probability is the mean of its tokens' or its first one's.
    force_tokens: always kept.   force_reserve_digit: so are tokens with a digit.
    drop_consecutive: of forced tokens that follow each other with nothing kept in between, only the first stays.
    chunk_end_tokens: where a text too long for one pass may be cut.
    use_context_level_filter and the options below it: with several contexts, drop whole ones first.
    """

    rate: float = 0.5
    target_token: float = -1
    use_token_level_filter: bool = True
    token_to_word: Literal["mean", "first"] = "mean"
    force_tokens: tuple[str, ...] = ()
    force_reserve_digit: bool = False
    drop_consecutive: bool = False
    chunk_end_tokens: tuple[str, ...] = (".", "\n")
    use_context_level_filter: bool = True
    target_context: int = -1
    context_level_rate: float = 1.0
    context_level_target_token: float = -1
    force_context_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and 1 - self.rate < 1):
            raise InvalidInput(f"rate must be above 0, not {self.rate}")
        if not (self.target_token < 0 or 1 <= self.target_token < math.inf):
            raise InvalidInput(f"target_token must be at least 1, or -1 for none, not {self.target_token}")
        if not math.isfinite(self.context_level_target_token):
            raise InvalidInput("context_level_target_token must be finite")
        if not 0 <= self.context_level_rate <= 1:
            raise InvalidInput(f"context_level_rate must be between 0 and 1, not {self.context_level_rate}")
        if len(self.force_tokens) > 100 or "" in self.force_tokens:
            raise InvalidInput("force_tokens must be at most 100 texts, none of them empty")
        if self.token_to_word not in ("mean", "first"):
            raise InvalidInput(f"token_to_word must be mean or first, not {self.token_to_word!r}")
