"""When short-term memory is handed over: which closed segments form the next extraction. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def due(segment_tokens: Sequence[int], threshold: int, *, idle: bool = False, flush: bool = False) -> int:
    """How many of a user's closed segments, oldest first, form the next batch; 0 if they still wait.

    segment_tokens: compressed tokens of each waiting segment. A batch ends before the segment that would take it
    beyond the threshold, so it exceeds the threshold only when it is a single segment; with threshold 0 every segment
    is a batch. When `idle` or on `flush` the rest goes too. Call again until 0: batches do not depend on how often.
    """
    total = 0
    for count, tokens in enumerate(segment_tokens):
        if count and total + tokens > threshold:
            return count
        total += tokens
    # No further segment fits any more: there is nothing to wait for.
    is_full = total >= threshold
    return len(segment_tokens) if segment_tokens and (is_full or idle or flush) else 0
