"""Options of the sensory stage: who scores words, what is kept, where topics end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightmem_engine.config_fields import check, option

PaperIndex = Literal["code", "paper"]
PROTECTED = ("numbers", "names", "people", "negations")


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    source: Literal["saliency", "llmlingua", "entropy", "served", "stub"] = option(
        "saliency",
        "who scores words: rarity and attention of the embedder (saliency), an LLMLingua-2 checkpoint, or a causal "
        "model's entropy; served takes the words of saliency and attention from the chats of the model in process or "
        "inside vLLM",
    )
    model: str = option(
        "",
        "a path or a hub name: the LLMLingua-2 checkpoint, or the causal model of source = entropy (empty: that of "
        "lm, a server's through its prompt log-probabilities)",
    )
    layers: tuple[int, ...] = option(
        (), "layers whose attention is read; empty takes the last third (saliency: the first layer of it)"
    )
    mode: Literal["window", "per_message"] = option(
        "window",
        "source = llmlingua: score the words of a window of turns in one pass, or compress each message by itself to "
        "exactly the text of the llmlingua package, which takes a second pass and leaves compress.protect out",
    )
    special_tokens: Literal["package", "fixed"] = option(
        "package", "mode = per_message: tokens around a message as the package sets them, or the model's own (XLM-R)"
    )
    window_tokens: int = option(512, "token budget of one window, both roles counted")

    def __post_init__(self) -> None:
        check(
            self.source != "llmlingua" or bool(self.model),
            "classifier.source = llmlingua needs classifier.model",
        )
        check(
            self.mode == "window" or self.source == "llmlingua",
            "classifier.mode = per_message needs classifier.source = llmlingua",
        )
        check(
            not self.model or self.source in ("llmlingua", "entropy"),
            f"classifier.model is of no use to classifier.source = {self.source}",
        )
        check(self.window_tokens >= 32, "classifier.window_tokens must be at least 32")


@dataclass(frozen=True, slots=True)
class CompressConfig:
    rate: float = option(0.6, "share of words kept; 1 keeps all")
    protect: tuple[str, ...] = option(
        PROTECTED, "words that are never dropped: numbers, names, people (kin, and whose it is), negations"
    )

    whole_words: int = option(12, "messages of at most so many words are kept whole, however many others keep")

    def __post_init__(self) -> None:
        check(self.whole_words >= 0, "compress.whole_words must be 0 or more")
        check(0 < self.rate <= 1, "compress.rate must be above 0 and at most 1")
        unknown = set(self.protect) - set(PROTECTED)
        check(not unknown, f"compress.protect does not know {', '.join(sorted(unknown))}")


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    mode: Literal["hybrid", "paper"] = option("hybrid", "how topic boundaries are found")
    paper_index: PaperIndex = option(
        "code", "segment.mode = paper: attention peak k cuts before turn k (code) or k + 1 (paper)"
    )
    lookahead: int = option(4, "units of dialogue read past a gap before it is decided")
    max_tokens: int = option(16384, "compressed tokens after which a segment ends even without a change of topic")

    @property
    def edge_tokens(self) -> int:
        """Tokens at either end of a window whose attention is not read, special tokens counted."""
        return 3 if self.mode == "paper" else 1

    def __post_init__(self) -> None:
        check(self.lookahead >= 1, "segment.lookahead must be at least 1")
        check(self.max_tokens >= 64, "segment.max_tokens must be at least 64")
