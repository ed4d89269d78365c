"""Blocks out of a device's cache and into it, byte for byte: [blocks, bytes], each layer's bytes after the other's.

On a GPU nobody waits for the bus. What leaves is first gathered on the device, on the stream that computes: from then
on the blocks may be overwritten. It travels to pinned memory beside the steps that follow, through a ring of a fixed
size, and whoever needs the bytes waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lightmem_engine.kv.files import Bytes

SLICE_BYTES = 32 << 20  # that travel together
NUM_SLOTS = 4  # slices on their way out, on the device

_cuda: Any = torch.cuda  # its events and streams are not typed


class Copied:
    """Blocks that leave the device."""

    def __init__(self, host: torch.Tensor, done: Any) -> None:
        self._host = host
        self._done = done

    def rows(self) -> Bytes:
        """uint8 [blocks, bytes]; waits until they are there."""
        if self._done is not None:
            self._done.synchronize()
        found: Bytes = self._host.numpy()
        return found


class BlockCopies:
    """Over the caches of one worker: per layer a tensor whose first dimension is the block."""

    def __init__(self, caches: Sequence[torch.Tensor]) -> None:
        # As bytes where they lie so: not every kind of number can be gathered, and a copy asks for none.
        self._caches = [cache.view(torch.uint8) if cache.stride(-1) == 1 else cache for cache in caches]
        self._sizes = [cache[0].numel() * cache.element_size() for cache in self._caches]
        self.block_bytes = sum(self._sizes)
        self._device = self._caches[0].device
        self._per_slice = max(1, SLICE_BYTES // self.block_bytes)
        self._ring: list[torch.Tensor] = []
        self._left: list[Any] = [None] * NUM_SLOTS  # when a slot's bytes have left it
        self._next = 0
        self._outwards: Any = None
        if self._device.type == "cuda":
            self._outwards = _cuda.Stream(self._device)
            self._ring = [self._empty(self._per_slice) for _ in range(NUM_SLOTS)]

    def now(self) -> Any:
        """What a copy from another thread must come after: what the device has been given so far. None on a CPU."""
        return None if self._outwards is None else _recorded(_cuda.current_stream(self._device))

    def take(self, blocks: Sequence[int]) -> list[Copied]:
        """The blocks as the steps so far leave them; slice by slice, in order."""
        parts = [blocks[at : at + self._per_slice] for at in range(0, len(blocks), self._per_slice)]
        return [self._taken(part) for part in parts]

    @torch.inference_mode()
    def put(self, blocks: Sequence[int], contents: Sequence[Bytes], ready: Any) -> None:
        """Fill blocks with uint8 [bytes] each, behind `ready`; returns when they are there. Any thread may call it."""
        with self._beside(ready):
            for at in range(0, len(blocks), self._per_slice):
                part = blocks[at : at + self._per_slice]
                host = torch.empty(len(part), self.block_bytes, dtype=torch.uint8, pin_memory=ready is not None)
                for row, content in zip(host.numpy(), contents[at : at + self._per_slice], strict=True):
                    row[:] = content
                staged = host.to(self._device, non_blocking=True)
                where = torch.tensor(part, device=self._device)
                for cache, columns in self._columns(staged):
                    cache.index_copy_(
                        0, where, columns.contiguous().view(cache.dtype).view(len(part), *cache.shape[1:])
                    )

    @torch.inference_mode()
    def _taken(self, blocks: Sequence[int]) -> Copied:
        if self._outwards is None:
            host = self._empty(len(blocks))
            self._gather(blocks, host)
            return Copied(host, None)
        slot, self._next = self._next, (self._next + 1) % NUM_SLOTS
        computing = _cuda.current_stream(self._device)
        if self._left[slot] is not None:
            computing.wait_event(self._left[slot])
        staged = self._ring[slot][: len(blocks)]
        self._gather(blocks, staged)
        gathered = _recorded(computing)
        host = torch.empty(len(blocks), self.block_bytes, dtype=torch.uint8, pin_memory=True)
        with _cuda.stream(self._outwards):
            self._outwards.wait_event(gathered)
            host.copy_(staged, non_blocking=True)
            self._left[slot] = _recorded(self._outwards)
        return Copied(host, self._left[slot])

    def _gather(self, blocks: Sequence[int], into: torch.Tensor) -> None:
        where = torch.tensor(blocks, device=self._device)
        for cache, columns in self._columns(into):
            columns.copy_(cache.index_select(0, where).contiguous().view(len(blocks), -1).view(torch.uint8))

    def _columns(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each cache with its part of [blocks, bytes]."""
        at = 0
        for cache, size in zip(self._caches, self._sizes, strict=True):
            yield cache, rows[:, at : at + size]
            at += size

    def _empty(self, num_blocks: int) -> torch.Tensor:
        return torch.empty(num_blocks, self.block_bytes, dtype=torch.uint8, device=self._device)

    @contextmanager
    def _beside(self, ready: Any) -> Iterator[None]:
        """On a GPU: on a stream of its own behind `ready`, whose work is done when the context ends."""
        if ready is None:
            yield
            return
        stream = _cuda.Stream(self._device)
        stream.wait_event(ready)
        with _cuda.stream(stream):
            yield
        stream.synchronize()


def _recorded(stream: Any) -> Any:
    event = _cuda.Event()
    event.record(stream)
    return event
