"""Which words LLMLingua-2 keeps, given the probability of each token. Pure numpy, exact to the last bit.

The number formats decide ties. Probabilities are float32 and so are sums of them, from left to right; but a word all of
whose tokens are forced is a double in the package, and one such word makes the percentile of its chunk a double.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_plan import Chunk, Ints, Plan, Planner, Words, reduction
from lightmem_engine.models.lingua_tables import Flags

Real = TypeVar("Real", np.float32, np.float64)
Probabilities = npt.NDArray[np.float32]
Read = Probabilities | Flags  # of a chunk: the probability of each token or, chosen already, whether each word stays
Status = Literal["compressed", "empty", "no words", "broken word", "empty context"]


@dataclass(frozen=True, slots=True)
class Compressed:
    """One call's outcome, contexts joined by a blank line.

    status: `empty` nothing is left or nothing was there. With any of the others the text is the original, where the
        package would raise: `no words` a chunk has none (only unknown characters); `broken word` a chunk begins in the
        middle of one; `empty context` one of several contexts has no words.
    labels: per kept context its words and whether each was kept; empty where no model ran.
    """

    text: str
    contexts: tuple[str, ...]
    status: Status
    labels: tuple[tuple[tuple[str, bool], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class _Scores:
    """float64 [w], each exactly what the package holds; `is_double`: those that it holds as a double."""

    values: npt.NDArray[np.float64]
    is_double: Flags


class _Refused(Exception):
    """The package would raise here."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status: Status = status


def select(planner: Planner, plan: Plan, probabilities: Sequence[Sequence[Read]], options: LinguaOptions) -> Compressed:
    """The text of a call. `probabilities`: per chunk of each context, as in `plan.chunks`, float32 [T] of its tokens or
    bool [w] of its words."""
    try:
        if planner.has_filter(plan.contexts, options):
            found = _of_many(planner, plan, probabilities, options)
        else:
            share = reduction(options, plan.num_tokens)
            found = _tokens_of(planner, plan, range(len(plan.pieces)), probabilities, share, options)
    except _Refused as refused:
        return Compressed("\n\n".join(plan.contexts), plan.contexts, refused.status)
    texts = tuple(text for text, _ in found)
    text = "\n\n".join(texts)
    labels = tuple(own for _, own in found)
    return Compressed(text, texts, "compressed" if text else "empty", labels if any(labels) else ())


_Found = list[tuple[str, tuple[tuple[str, bool], ...]]]


def _of_many(planner: Planner, plan: Plan, probabilities: Sequence[Sequence[Read]], options: LinguaOptions) -> _Found:
    """Contexts compete first; what is left of them is then compressed."""
    scores = [_context_score(*pair, options) for pair in zip(plan.chunks, probabilities, strict=True)]
    if not scores:
        raise _Refused("empty context")
    threshold = np.percentile(np.array(scores), int(100 * (1 - _context_rate(plan, options))))
    kept = [i for i, score in enumerate(scores) if score >= threshold or i in options.force_context_ids]
    rate = options.rate
    if options.target_token >= 0:
        left = sum(planner.count(piece) for i in kept for piece in plan.pieces[i])
        if not left:
            raise _Refused("empty context")
        rate = min(options.target_token / left, 1.0)
    return _tokens_of(planner, plan, kept, probabilities, max(0, 1 - rate), options)


def _context_rate(plan: Plan, options: LinguaOptions) -> float:
    rate, target = options.context_level_rate, options.context_level_target_token
    if options.target_context <= 0 and rate >= 1.0 and target <= 0:
        if options.target_token < 0 and options.rate < 1.0:
            rate = (options.rate + 1.0) / 2 if options.use_token_level_filter else options.rate
        if options.target_token >= 0:
            target = options.target_token * 2 if options.use_token_level_filter else options.target_token
    if options.target_context >= 0:
        rate = min(options.target_context / len(plan.contexts), 1.0)
    if target >= 0:
        if not plan.num_tokens:
            raise _Refused("empty context")
        rate = min(target / plan.num_tokens, 1.0)
    return rate


def _context_score(chunks: Sequence[Chunk], probabilities: Sequence[Read], options: LinguaOptions) -> np.float32:
    """The plain mean of a context's words; weights and forced tokens do not count."""
    scores = [
        _word_scores(_words(chunk), _of_tokens(own), options, for_context=True).values
        for chunk, own in zip(chunks, probabilities, strict=True)
    ]
    flat = np.concatenate(scores).astype(np.float32) if scores else np.zeros(0, np.float32)
    if not len(flat):
        raise _Refused("empty context")
    mean: np.float32 = np.add.accumulate(flat)[-1] / np.float32(len(flat))
    return mean


def _tokens_of(
    planner: Planner,
    plan: Plan,
    kept: Sequence[int],
    probabilities: Sequence[Sequence[Read]],
    share: float,
    options: LinguaOptions,
) -> _Found:
    """Drop `share` of the tokens of each chunk; chunks of a context are joined with nothing in between."""
    if share <= 0 or not options.use_token_level_filter:
        return [("".join(map(plan.rules.restored, plan.pieces[i])), ()) for i in kept]
    found: _Found = []
    for i in kept:
        parts: list[str] = []
        labels: list[tuple[str, bool]] = []
        for chunk, own in zip(plan.chunks[i], probabilities[i], strict=True):
            words = _words(chunk)
            if not words.texts:
                raise _Refused("no words")
            is_chosen = own.dtype == np.bool_
            keep: list[bool] = own.tolist() if is_chosen else keep_words(words, _of_tokens(own), share, options)
            parts.append(planner.vocabulary.join([text for text, flag in zip(words.texts, keep, strict=True) if flag]))
            shown = (
                (text.lstrip("\u2581") for text in words.texts)
                if planner.vocabulary.family == "xlm-roberta"
                else iter(words.texts)
            )
            labels += zip(shown, keep, strict=True)
        found.append(("".join(parts), tuple(labels)))
    return found


def _of_tokens(own: Read) -> Probabilities:
    """What was read of a chunk, where it is not chosen from already."""
    assert own.dtype == np.float32
    return cast(Probabilities, own)


def _words(chunk: Chunk) -> Words:
    if chunk.words is None:
        raise _Refused("broken word")
    return chunk.words


def keep_words(words: Words, probabilities: Probabilities, share: float, options: LinguaOptions) -> list[bool]:
    """Per word whether it stays. `words` must not be empty; `probabilities` float32 [T] are of the chunk's tokens."""
    scores = _word_scores(words, probabilities, options)
    if options.drop_consecutive:
        _silence_repeats(words.texts, scores, int(100 * share), frozenset(options.force_tokens))
    weighted = np.repeat(scores.values, words.weights)
    threshold = _percentile(weighted, np.repeat(scores.is_double, words.weights), int(100 * share + 1))
    keep: list[bool] = ((scores.values > threshold) | ((threshold == 1.0) & (scores.values == 1.0))).tolist()
    if options.drop_consecutive:
        last = None
        for i, text in enumerate(words.texts):
            if keep[i] and text in options.force_tokens and text == last:
                keep[i] = False
            if keep[i]:
                last = text
    return keep


def _word_scores(
    words: Words, probabilities: Probabilities, options: LinguaOptions, *, for_context: bool = False
) -> _Scores:
    """`for_context`: as contexts are judged, where every token of a word counts as its first one, unforced."""
    tokens, starts, lengths = probabilities[words.places], words.starts, words.lengths
    forced = words.forced
    if for_context:
        tokens, forced = np.repeat(tokens[starts], lengths), np.zeros(len(tokens), np.bool_)
    tokens = np.where(forced, np.float32(1), tokens)
    if options.token_to_word == "first":
        return _Scores(tokens[starts].astype(np.float64), forced[starts])
    if not len(starts):
        return _Scores(np.zeros(0), np.zeros(0, np.bool_))
    means = left_to_right(tokens, starts, lengths) / lengths.astype(np.float32)
    return _Scores(means.astype(np.float64), np.logical_and.reduceat(forced, starts))


def left_to_right(values: npt.NDArray[Real], starts: Ints, lengths: Ints) -> npt.NDArray[Real]:
    """Sums of runs of at least one value, in the order that Python adds; `reduceat` may take another."""
    sums = values[starts]
    for j in range(1, int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > j)
        sums[longer] += values[starts[longer] + j]
    return sums


def _silence_repeats(texts: Sequence[str], scores: _Scores, q: int, force_tokens: frozenset[str]) -> None:
    """A forced word that follows the same one with nothing likely in between gets probability 0."""
    threshold = _percentile(scores.values, scores.is_double, q)
    between, previous = False, None
    for i, text in enumerate(texts):
        if text in force_tokens:
            if between:
                between = False
            elif text == previous:
                scores.values[i], scores.is_double[i] = 0.0, True
            previous = text
        elif scores.values[i] > threshold:
            between = True


def _percentile(values: npt.NDArray[np.float64], is_double: Flags, q: int) -> Any:
    """numpy's own, over an array of the type the package's list would become."""
    return np.percentile(values if is_double.any() else values.astype(np.float32), q)
