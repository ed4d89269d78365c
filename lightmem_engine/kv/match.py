"""Which stored chunks a prompt can begin with: whole ones, and the beginning of one that goes on differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightmem_engine.kv import keys
from lightmem_engine.kv.files import Bytes, Chunk
from lightmem_engine.kv.index import Row
from lightmem_engine.kv.keys import Tokens
from lightmem_engine.kv.store import KVStore

MIN_CROPPED = 16  # tokens of a chunk that goes another way; fewer are computed
MAX_CROPPED = 4  # chunks that are looked into for that


@dataclass(frozen=True, slots=True)
class Place:
    """A stored chunk that a prompt can use: its first `take` tokens stand at `start`."""

    row: Row
    start: int
    take: int


@dataclass(frozen=True, slots=True)
class Found:
    """Loaded chunks, (start, payload), that make the first `num_tokens` tokens complete."""

    payloads: tuple[tuple[int, Bytes], ...]
    num_tokens: int


def find_places(store: KVStore, root: bytes, tokens: Tokens, size: int) -> list[Place]:
    """The stored chunks that agree with these tokens from the front. Raises `sqlite3.Error`."""
    found: list[Place] = []
    parent, at = root, 0
    while at < len(tokens):
        row = _child(store, parent, tokens[at : at + size])
        if row is None:
            return found + _cropped(store, parent, at, tokens[at : at + size])
        found.append(Place(row, at, row.num_tokens))
        parent, at = row.key, at + row.num_tokens
    return found


def complete(places: Sequence[Place], chunks: Sequence[Chunk], tokens: Tokens, known: int) -> Found | None:
    """What of the loaded chunks makes the front of the prompt complete; their token ids are compared once more."""
    payloads, reached = [], known
    for place, chunk in zip(places, chunks, strict=False):
        stop = place.start + place.take
        if chunk.tokens[: place.take].tolist() != tokens[place.start : stop].tolist():
            break
        payloads.append((place.start, chunk.payload))
        reached = stop
    return Found(tuple(payloads), reached) if payloads else None


def _child(store: KVStore, parent: bytes, tokens: Tokens) -> Row | None:
    """The longest chunk behind `parent` whose tokens these begin with."""
    for length in store.index.lengths(parent):
        if length <= len(tokens):
            row = store.find(keys.following(parent, tokens[:length]))
            if row is not None:
                return row
    return None


def _cropped(store: KVStore, parent: bytes, at: int, tokens: Tokens) -> list[Place]:
    best: Place | None = None
    for key in store.index.children(parent, MAX_CROPPED):
        row = store.find(key)
        shared = 0 if row is None else _shared(store.files.peek(key), tokens)
        if row is not None and shared >= MIN_CROPPED and (best is None or shared > best.take):
            best = Place(row, at, shared)
    return [] if best is None else [best]


def _shared(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    differing = (a[:length] != b[:length]).nonzero()[0]
    return int(differing[0]) if len(differing) else length
