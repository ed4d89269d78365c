"""How well topic boundaries are found: the metrics, two baselines, and runs of the real sensory stage.

A document is `{"turns": [{"role" or "speaker", "text"}], "boundaries": [i, ...]}`, each i the first turn of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from lightmem_engine.config_sensory import PaperIndex, SegmentConfig
from lightmem_engine.sensory.memory import SensoryJob, SensoryMemory
from lightmem_engine.sensory.normalize import normalize
from lightmem_engine.sensory.segment import TurnSignal, document_boundaries, signal
from lightmem_engine.types import Message, Scope, Turn

Document = Mapping[str, Any]
Report = dict[str, float]

_START = datetime(2024, 1, 1, tzinfo=UTC)


# --- metrics


def pk(num_turns: int, reference: Sequence[int], hypothesis: Sequence[int]) -> float:
    """Share of turn pairs, half a mean segment apart, that only one of the two segmentations separates."""
    (r, h), reach = _numbered(num_turns, reference, hypothesis)
    return float(np.mean((r[reach:] == r[:-reach]) != (h[reach:] == h[:-reach])))


def window_diff(num_turns: int, reference: Sequence[int], hypothesis: Sequence[int]) -> float:
    """Share of such pairs between which the two count different numbers of boundaries."""
    (r, h), reach = _numbered(num_turns, reference, hypothesis)
    return float(np.mean((r[reach:] - r[:-reach]) != (h[reach:] - h[:-reach])))


def _numbered(
    num_turns: int, reference: Sequence[int], hypothesis: Sequence[int]
) -> tuple[list[npt.NDArray[np.int64]], int]:
    """The segment number of each turn in both, and the distance to compare at (half a mean segment, rounded)."""
    numbers = [np.searchsorted(sorted(found), np.arange(num_turns), side="right") for found in (reference, hypothesis)]
    reach = max(1, int(num_turns / (2.0 * (len(reference) + 1)) + 0.5))
    return numbers, min(reach, num_turns - 1)


def matches(reference: Sequence[int], hypothesis: Sequence[int], tolerance: int) -> int:
    """Boundaries paired one to one, at most `tolerance` turns apart, nearest pairs first."""
    near = sorted((abs(r - h), r, h) for r in reference for h in hypothesis if abs(r - h) <= tolerance)
    free_r, free_h = set(reference), set(hypothesis)
    count = 0
    for _, r, h in near:
        if r in free_r and h in free_h:
            free_r.remove(r)
            free_h.remove(h)
            count += 1
    return count


def report(documents: Sequence[Document], hypotheses: Sequence[Sequence[int]]) -> Report:
    """Pk and WD averaged over documents, F1 (exact, and within one turn) pooled, and their combined score
    (2 F1 + (1 - Pk) + (1 - WD)) / 4. Boundaries outside a document are ignored."""
    errors: list[tuple[float, float]] = []
    exact = near = num_reference = num_found = 0
    for document, raw in zip(documents, hypotheses, strict=True):
        n, reference = len(document["turns"]), document["boundaries"]
        found = sorted({b for b in raw if 0 < b < n})
        errors.append((pk(n, reference, found), window_diff(n, reference, found)))
        exact += matches(reference, found, 0)
        near += matches(reference, found, 1)
        num_reference += len(reference)
        num_found += len(found)
    mean_pk, mean_wd = (float(np.mean(column)) for column in zip(*errors, strict=True))
    f1 = 2 * exact / max(1, num_reference + num_found)
    return {
        "Pk": mean_pk,
        "WD": mean_wd,
        "F1": f1,
        "F1@1": 2 * near / max(1, num_reference + num_found),
        "score": (2 * f1 + (1 - mean_pk) + (1 - mean_wd)) / 4,
        "pred_per_doc": num_found / len(documents),
        "ref_per_doc": num_reference / len(documents),
    }


# --- baselines


def dip_boundaries(vectors: npt.NDArray[np.floating], *, width: int = 2, spreads: float = 1.0) -> list[int]:
    """TextTiling on vectors [n, dim]: gaps where the similarity of the means of `width` turns before and after dips
    deeper than the mean depth plus `spreads` standard deviations."""
    n = len(vectors)
    if n < 2:
        return []
    similarity = []
    for gap in range(1, n):
        a, b = vectors[max(0, gap - width) : gap].mean(0), vectors[gap : gap + width].mean(0)
        similarity.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9)))
    depth = np.array([_climb(similarity, i, -1) + _climb(similarity, i, 1) for i in range(n - 1)])
    floor = max(0.0, float(depth.mean() + spreads * depth.std()))
    return [int(i) + 1 for i in np.flatnonzero(depth > floor)]


def _climb(values: Sequence[float], start: int, step: int) -> float:
    top = start
    while 0 <= top + step < len(values) and values[top + step] >= values[top]:
        top += step
    return values[top] - values[start]


# --- runs


async def evaluate(documents: Sequence[Document], sensory: SensoryMemory, config: SegmentConfig) -> dict[str, Report]:
    """`main`: whole document at once.   `empty`, `dip`: baselines. Live is what an engine stored."""
    signals = await _signals(documents, sensory)
    return {
        "main": report(documents, [document_boundaries(turns, config) for turns in signals]),
        "empty": report(documents, [[] for _ in documents]),
        "dip": report(documents, [dip_boundaries(np.stack([t.vector for t in turns])) for turns in signals]),
    }


async def evaluate_paper(
    documents: Sequence[Document], sensory: SensoryMemory, config: SegmentConfig
) -> dict[str, Report]:
    """The published rule on whole documents, with both of its index conventions; `sensory` attends to user turns."""
    signals = await _signals(documents, sensory)
    found = {}
    for index in get_args(PaperIndex):
        rule = replace(config, mode="paper", paper_index=index)
        found[f"paper, {index} index"] = report(documents, [document_boundaries(turns, rule) for turns in signals])
    return found


async def _signals(documents: Sequence[Document], sensory: SensoryMemory) -> list[list[TurnSignal]]:
    jobs = [SensoryJob(document_turns(document)) for document in documents]
    return [[signal(turn) for turn in sensed] for sensed in await sensory.sense(jobs)]


def document_messages(document: Document) -> list[Message]:
    """A document as a session. `system` speaks for the assistant; anybody else than user and assistant is a person."""
    return [_message(turn) for turn in document["turns"]]


def document_turns(document: Document) -> list[Turn]:
    """The messages of a document as turns."""
    messages = document_messages(document)
    drafts = normalize(messages, timestamp=_START, zone=UTC, last_event_time=None, now=_START)
    session = str(document.get("id", ""))
    return [
        Turn(seq, d.id, Scope("eval"), session, d.role, d.speaker, d.text, d.event_time, _START)
        for seq, d in enumerate(drafts)
    ]


def _message(turn: Mapping[str, Any]) -> Message:
    who = str(turn.get("role") or turn.get("speaker") or "user")
    if who in ("assistant", "system"):
        return Message("assistant", turn["text"])
    return Message("user", turn["text"], name=None if who == "user" else who)
