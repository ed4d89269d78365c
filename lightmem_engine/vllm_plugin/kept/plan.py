"""The scheduler's half: which blocks a request can load, and which it is to keep. No bytes, no device.

vLLM's block hashes cover the tokens and the user's salt; a chunk's key adds what else its bytes depend on. Only
requests with a salt are looked up, and only those whose parameters say what the cache belongs to are kept; of these the
whole blocks of the prompt, once they are computed. What is answered is kept when the next turn's prompt repeats it.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.types import KV_OWNER

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """Chunks for blocks of the device's cache, in order."""

    request: str
    keys: tuple[bytes, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Save:
    """Blocks of the device's cache to keep as a chain of chunks, under a manifest that belongs to `owner`."""

    manifest: str
    owner: dict[str, Any]
    keys: tuple[bytes, ...]
    blocks: tuple[int, ...]


@dataclass(slots=True)
class _Request:
    """hashes: of its full blocks, growing.   blocks: its places on the device.   tried: a load was planned once."""

    hashes: Sequence[bytes]
    num_prompt: int
    salt: str
    owner: dict[str, Any] | None
    blocks: list[int] = field(default_factory=list)
    local: int = 0
    tried: bool = False
    saved: bool = False


class Planner:
    """is_valid: whether what stands is known at present; while it is not, nothing is found.   block_bytes: of a block,
    where only what is expected to load quicker than it is computed is kept; 0: all is."""

    def __init__(
        self,
        store: KVStore,
        fingerprint: bytes,
        block_size: int,
        rates: Rates,
        is_valid: Callable[[], bool],
        *,
        min_tokens: int = 1,
        block_bytes: int = 0,
    ) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._size = block_size
        self._rates = rates
        self._is_valid = is_valid
        self._min_tokens = min_tokens
        self._block_bytes = block_bytes
        self._requests: dict[str, _Request] = {}
        self._loads: list[Load] = []

    def add(
        self, id: str, hashes: Sequence[bytes], num_prompt: int, salt: str | None, params: dict[str, Any] | None
    ) -> None:
        """A request has arrived."""
        owner = (params or {}).get(KV_OWNER)
        self._requests[id] = _Request(hashes, num_prompt, salt or "", owner if isinstance(owner, dict) else None)

    def remove(self, id: str) -> None:
        """A request has ended."""
        self._requests.pop(id, None)

    def matched(self, id: str, num_tokens: int, num_computed: int) -> int:
        """How many tokens beyond the computed ones can be loaded; whole blocks, and one token is left to compute.

        A request is offered one load: if that fails, it computes.
        """
        request = self._requests.get(id)
        if request is None or not request.salt or request.tried or not self._is_valid():
            return 0
        first, last = num_computed // self._size, (num_tokens - 1) // self._size
        try:
            count, num_bytes = self.stored(request.hashes[:last], first)
        except sqlite3.Error as error:
            complain(logger, "kept KV caches could not be looked up", error)
            return 0
        tokens = count * self._size
        self._store.counters.count("lookups")
        if not tokens or tokens < self._min_tokens:
            return 0
        if not self._rates.pays(tokens, num_bytes):
            self._store.counters.count("loads_skipped")
            return 0
        request.local = first
        return tokens

    def stored(self, hashes: Sequence[bytes], first: int) -> tuple[int, int]:
        """How many blocks from `first` on may be read, and their bytes. Raises `sqlite3.Error`."""
        count = num_bytes = 0
        for one in hashes[first:]:
            row = self._store.find(self._key(one))
            if row is None:
                break
            count += 1
            num_bytes += row.num_bytes
        return count, num_bytes

    def allocated(self, id: str, blocks: Sequence[int], num_external: int) -> None:
        """The request has its places on the device; so many tokens of it are to be loaded."""
        request = self._requests.get(id)
        if request is None or num_external == 0:
            return
        request.tried = True
        places = range(request.local, request.local + num_external // self._size)
        keys = tuple(self._key(request.hashes[place]) for place in places)
        self._loads.append(Load(id, keys, tuple(blocks[place] for place in places)))
        self._store.counters.count("hits")
        self._store.counters.count("hit_tokens", num_external)

    def take_loads(self) -> list[Load]:
        """What is to be loaded from this step on."""
        loads, self._loads = self._loads, []
        return loads

    def scheduled(self, id: str, blocks: Sequence[int], num_after: int, *, anew: bool) -> Save | None:
        """A step computes a request up to `num_after` tokens. blocks: further ones, or with `anew` all of its blocks.
        What is to be kept once the step is done."""
        request = self._requests.get(id)
        if request is None:
            return None
        request.blocks = [*blocks] if anew else [*request.blocks, *blocks]
        full = request.num_prompt // self._size
        if self._rates.has_given_up or request.owner is None or not request.salt:
            return None
        if request.saved or num_after < full * self._size:
            return None
        request.saved = True
        if full * self._size < max(1, self._min_tokens) or len(request.hashes) < full or len(request.blocks) < full:
            return None
        if self._block_bytes and not self._rates.pays(full * self._size, full * self._block_bytes):
            self._store.counters.count("stores_skipped", reason="slower")
            return None
        keys = tuple(self._key(one) for one in request.hashes[:full])
        return Save(uuid.uuid4().hex, request.owner, keys, tuple(request.blocks[:full]))

    def _key(self, hash: bytes) -> bytes:
        return block_key(self._fingerprint, hash)


def block_key(fingerprint: bytes, hash: bytes) -> bytes:
    """What a chunk of vLLM's is called: by vLLM's own hash, and by what else its bytes depend on."""
    return hashlib.sha256(fingerprint + b"\0block\0" + bytes(hash)).digest()
