"""What memory adds to one question: new hits within the time there is, and the block of a session that begins."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from lightmem_engine.chat import block as blocks
from lightmem_engine.chat.budget import BLOCK_ONLY, EMBEDDING_SHARE, LEXICAL_ONLY, Deadline
from lightmem_engine.errors import InvalidInput, LightMemError
from lightmem_engine.runtime.complain import complain
from lightmem_engine.runtime.late import LateWork
from lightmem_engine.text import num_tokens
from lightmem_engine.types import Block, ChatView, Hit, Note, Scope

logger = logging.getLogger(__name__)

Search = Callable[..., Awaitable[tuple[list[Hit], bool]]]
Contents = Callable[[Scope, Iterable[str]], Awaitable[dict[str, str]]]
Newest = Callable[[Scope], Awaitable[list[Hit]]]
MAX_TOP_K = 1000  # of a search
MAX_SPARE = 50  # hits asked for beyond `top_k`, to replace those that the prompt holds already


class Recaller:
    """Recall for chat. Nothing it finds is in the prompt already."""

    def __init__(self, search: Search, contents: Contents, newest: Newest, late: LateWork) -> None:
        """search: hits, and whether meaning had a part.   contents: the texts of messages by id.
        newest: what a block is rebuilt from."""
        self._search = search
        self._contents = contents
        self._newest = newest
        self._late = late

    async def hits(
        self,
        scope: Scope,
        question: str,
        present: Collection[str],
        known: Collection[Note],
        *,
        top_k: int,
        max_tokens: int,
        filters: Mapping[str, Any] | None,
        deadline: Deadline,
    ) -> tuple[tuple[Note, ...] | None, str | None]:
        """Lines for this turn, oldest first, and why they are fewer than they could be; None: nothing was found out.

        present: the texts of the request.   known: what its prompt shows already. Raises `InvalidInput` for a search
        that cannot be.
        """
        spare = min(len(known), MAX_SPARE, max(0, MAX_TOP_K - top_k))

        async def find() -> tuple[list[Hit], bool]:
            hits, is_complete = await self._search(
                scope, question, top_k=top_k + spare, filters=filters, patience=deadline.left * EMBEDDING_SHARE
            )
            return await self._untold(scope, hits, present), is_complete

        try:
            found, is_complete = await self._late.within(find(), deadline.left)
        except TimeoutError:
            return None, BLOCK_ONLY
        except InvalidInput:
            raise
        except LightMemError as error:
            complain(logger, "recall failed", error)
            return None, error.code
        kept = _within(_unknown(found, known)[:top_k], max_tokens)
        notes = tuple(blocks.note_of(hit) for hit in sorted(kept, key=lambda hit: hit.event_time))
        return notes, None if is_complete else LEXICAL_ONLY

    async def block(
        self, scope: Scope, view: ChatView, present: Collection[str], max_tokens: int
    ) -> tuple[Block, Block]:
        """The block of a session that begins, and what the user's next session begins from: the same and what this
        request holds already."""
        hits: Sequence[Hit] = view.fresh
        following = blocks.append(view.base, hits, max_tokens)
        if following is None:
            hits = await self._newest(scope)
            following = blocks.rebuild(view.base, hits, max_tokens)
        shown = {note.id for note in following.notes}
        hits = [hit for hit in hits if hit.id in shown]
        told = shown - {hit.id for hit in await self._untold(scope, hits, present)} - {n.id for n in view.base.notes}
        told &= {hit.id for hit in hits}
        notes = tuple(note for note in following.notes if note.id not in told)
        return Block(notes, following.epoch, following.seen_ms), following

    async def _untold(self, scope: Scope, hits: Sequence[Hit], present: Collection[str]) -> list[Hit]:
        """Without those whose source messages the request contains."""
        told = await self._contents(scope, [id for hit in hits for id in hit.source_ids])
        contained = {id for id, text in told.items() if text.strip() in present}
        return [hit for hit in hits if not hit.source_ids or not contained.issuperset(hit.source_ids)]


def _unknown(hits: Sequence[Hit], known: Collection[Note]) -> list[Hit]:
    """Without those that the prompt shows: as this entry, as the message it was while it waited, or word for word."""
    ids, lines = {note.id for note in known}, {note.line for note in known}
    fresh = []
    for hit in hits:
        waited = bool(hit.source_ids) and hit.state != "pending" and ids.issuperset(hit.source_ids)
        line = blocks.note_of(hit).line
        if line not in lines and not waited and (hit.state == "pending" or hit.id not in ids):
            fresh.append(hit)
            lines.add(line)
    return fresh


def _within(hits: Sequence[Hit], max_tokens: int) -> list[Hit]:
    """Whole memories in rank order until the next would not fit; one larger than the whole budget is passed over."""
    kept, left = [], max_tokens
    for hit in hits:
        cost = num_tokens(blocks.note_of(hit).line)
        if cost > max_tokens:
            continue
        if cost > left:
            break
        kept.append(hit)
        left -= cost
    return kept
