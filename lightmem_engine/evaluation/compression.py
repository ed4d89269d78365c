"""What compression costs: whether answers survive in the evidence turns, and whether search still finds them.

Judged on LoCoMo-style conversations: `{"conversation": {"session_1": [turn, ...], ...}, "qa": [question, ...]}`.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lightmem_engine.sensory.memory import SensoryJob, SensoryMemory
from lightmem_engine.sensory.term_counts import TermCounts
from lightmem_engine.text import STOPWORDS, num_tokens, stem, terms, words
from lightmem_engine.types import Scope, SensedTurn, Turn

Conversation = Mapping[str, Any]
Report = dict[str, float]

_TOKEN = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_SESSION = re.compile(r"session_(\d+)")
_ADVERSARIAL = 5
_ARTICLES = frozenset(("a", "an", "the"))
_DEPTH = 10  # results of a search that count
_START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Said:
    """A turn of a conversation; the caption of a shared photo belongs to its text."""

    id: str
    speaker: str
    session: int
    text: str


def said(conversation: Conversation) -> list[Said]:
    """The turns in order of their sessions."""
    body = conversation["conversation"]
    numbers = sorted(int(m[1]) for key in body if (m := _SESSION.fullmatch(key)) and isinstance(body[key], list))
    return [
        Said(turn["dia_id"], turn["speaker"], number, turn.get("text", "") + _caption(turn))
        for number in numbers
        for turn in body[f"session_{number}"]
    ]


def _caption(turn: Mapping[str, Any]) -> str:
    caption = turn.get("blip_caption")
    return f" [shares a photo: {caption}]" if caption else ""


# --- metrics


def report(conversations: Sequence[Conversation], compressed: Sequence[Sequence[str]]) -> Report:
    """Judge one compressed text per turn of each conversation.

    kept: tokens left.   survival: mean share of an answer's content terms, of those in its evidence turns, that are
    still there; intact: share of answers that keep all.   R@10: evidence turns that BM25 finds by the question.
    """
    survival: list[float] = []
    recall: list[float] = []
    kept = total = 0
    for conversation, texts in zip(conversations, compressed, strict=True):
        turns = said(conversation)
        kept += sum(map(num_tokens, texts))
        total += sum(num_tokens(turn.text) for turn in turns)
        place = {turn.id: i for i, turn in enumerate(turns)}
        search = _Search([f"{turn.speaker}: {text}" for turn, text in zip(turns, texts, strict=True)])
        for question in conversation["qa"]:
            evidence = question["evidence_ids"]
            if question["category"] == _ADVERSARIAL or not evidence:
                continue
            before = _answer_terms(" ".join(turns[place[e]].text for e in evidence))
            after = _answer_terms(" ".join(texts[place[e]] for e in evidence))
            asked = [term for term in terms(str(question["answer"])) if term in before]
            if asked:
                survival.append(sum(term in after for term in asked) / len(asked))
            found = {turns[i].id for i in search.best(question["question"], _DEPTH)}
            recall.append(len(found & set(evidence)) / len(set(evidence)))
    return {
        "kept": kept / total,
        "survival": float(np.mean(survival)),
        "intact": float(np.mean([share == 1 for share in survival])),
        "R@10": float(np.mean(recall)),
        "n": len(survival),
    }


def _answer_terms(text: str) -> set[str]:
    return {stem(word) for word in words(text) if word not in _ARTICLES}


class _Search:
    """BM25 (k1 1.2, b .75) over the turns of one conversation."""

    def __init__(self, documents: Sequence[str]) -> None:
        counts = [Counter(terms(document)) for document in documents]
        lengths = np.array([sum(count.values()) for count in counts], np.float64)
        self._norm = 1.2 * (0.25 + 0.75 * lengths / max(1e-9, float(lengths.mean())))
        self._postings: dict[str, list[tuple[int, int]]] = {}
        for i, count in enumerate(counts):
            for term, n in count.items():
                self._postings.setdefault(term, []).append((i, n))

    def best(self, question: str, k: int) -> list[int]:
        """The first k documents by score; earlier ones first where scores tie."""
        scores = np.zeros(len(self._norm))
        for term in terms(question):
            postings = self._postings.get(term, ())
            rarity = math.log(1 + (len(scores) - len(postings) + 0.5) / (len(postings) + 0.5))
            for i, n in postings:
                scores[i] += rarity * n * 2.2 / (n + self._norm[i])
        return [int(i) for i in np.argsort(-scores, kind="stable")[:k]]


# --- baselines: each maps the texts of one conversation to shorter ones

Compress = Callable[[Sequence[str]], list[str]]


def drop_stopwords(texts: Sequence[str]) -> list[str]:
    """Stop words and punctuation go."""
    return [
        " ".join(w for w in _TOKEN.findall(text) if w[0].isalnum() and w.lower().split("'")[0] not in STOPWORDS)
        for text in texts
    ]


def keep_rarest(rate: float) -> Compress:
    """The rarest `rate` of all tokens of the conversation by document frequency; ties are kept."""

    def compress(texts: Sequence[str]) -> list[str]:
        frequency = Counter(word for text in texts for word in set(words(text)))

        def rarity(token: str) -> float:
            return math.log(len(texts) / frequency.get(token.lower(), 1)) if token[0].isalnum() else -1.0

        ordered = sorted((rarity(token) for text in texts for token in _TOKEN.findall(text)), reverse=True)
        floor = ordered[int(rate * len(ordered)) - 1]
        return [" ".join(token for token in _TOKEN.findall(text) if rarity(token) >= floor) for text in texts]

    return compress


def keep_random(rate: float, seed: int = 0) -> Compress:
    """A random `rate` of the tokens."""

    def compress(texts: Sequence[str]) -> list[str]:
        drawn = random.Random(seed)
        return [" ".join(token for token in _TOKEN.findall(text) if drawn.random() < rate) for text in texts]

    return compress


def baselines(conversations: Sequence[Conversation], rates: Sequence[float] = (0.5, 0.4, 0.3)) -> dict[str, Report]:
    """Stop-word drop, and at each rate the rarest and a random share of the tokens."""
    methods: dict[str, Compress] = {"stopwords": drop_stopwords}
    for rate in rates:
        methods[f"rarest {rate:g}"] = keep_rarest(rate)
        methods[f"random {rate:g}"] = keep_random(rate)
    texts = [[turn.text for turn in said(conversation)] for conversation in conversations]
    return {name: report(conversations, [method(own) for own in texts]) for name, method in methods.items()}


# --- the real stage


async def compress_conversations(
    conversations: Sequence[Conversation], sensory: SensoryMemory, *, live: bool = False
) -> list[list[str]]:
    """Each turn's text as the sensory stage leaves it, fed session by session (`live`: turn by turn), with the term
    counts of what the conversation has said so far. Conversations share the batches."""
    turns = [said(conversation) for conversation in conversations]
    counts = [TermCounts() for _ in conversations]
    short: list[list[str]] = [[] for _ in conversations]
    feeds = [_feed(own, live) for own in turns]
    for step in range(max(map(len, feeds), default=0)):
        due = [i for i, feed in enumerate(feeds) if step < len(feed)]
        jobs = []
        for i in due:
            first, begin, end = feeds[i][step]
            for turn in turns[i][begin:end]:
                counts[i].add(turn.text)
            own = _as_turns(turns[i][first:end])
            new = begin - first
            context = [turn.text for turn in own[max(0, new - sensory.context_turns) : new]]
            jobs.append(SensoryJob(own[new:], context, counts[i].document_frequency, counts[i].num_documents))
        for i, sensed in zip(due, await sensory.sense(jobs), strict=True):
            short[i] += [compressed_text(turn) for turn in sensed]
    return short


def compressed_text(sensed: SensedTurn) -> str:
    """A turn's pieces, compressed, one after another."""
    return " ".join(piece.compressed for piece in sensed.pieces)


def _feed(turns: Sequence[Said], live: bool) -> list[tuple[int, int, int]]:
    """What arrives together: (first turn of the session, first new turn, end)."""
    begins = [i for i, turn in enumerate(turns) if i == 0 or turn.session != turns[i - 1].session]
    sessions = zip(begins, [*begins[1:], len(turns)], strict=True)
    if not live:
        return [(begin, begin, end) for begin, end in sessions]
    return [(begin, i, i + 1) for begin, end in sessions for i in range(begin, end)]


def _as_turns(turns: Sequence[Said]) -> list[Turn]:
    scope = Scope("eval")
    return [
        Turn(seq, turn.id, scope, str(turn.session), "user", turn.speaker, turn.text, _START, _START)
        for seq, turn in enumerate(turns)
    ]
