"""Exact inner-product search over the unit vectors of one user.

On CPU FAISS searches a numpy matrix, on CUDA torch one on the device; callers see no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from lightmem_engine.errors import CorruptStore, InvalidInput
from lightmem_engine.stores.columns import Column
from lightmem_engine.types import Floats, Vector, Vectors

if TYPE_CHECKING:
    import torch

Slots = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_NONE = -1
_faiss: Any = faiss  # its stubs miss what the Python layer adds to the C++ signatures


class _Rows(Protocol):
    """A growing matrix of vectors."""

    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def append(self, vector: Vector) -> None: ...
    def dots(self, query: Vector) -> Floats: ...
    def top(self, query: Vector, k: int, allowed: Mask) -> tuple[Floats, npt.NDArray[np.int64]]: ...
    def keep(self, rows: npt.NDArray[np.int64]) -> None: ...


class _CpuRows:
    """A numpy matrix that FAISS searches in place. A FAISS index would hold the rows itself and double its memory
    whenever it is full, which thousands of small users would pay for."""

    def __init__(self, dim: int) -> None:
        self._size = 0
        self._data: Vectors = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    def append(self, vector: Vector) -> None:
        if self._size == len(self._data):
            grown = np.empty((max(4, self._size + self._size // 4), self._data.shape[1]), np.float32)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        self._data[self._size] = vector
        self._size += 1

    def dots(self, query: Vector) -> Floats:
        return np.asarray(self._data[: self._size] @ query, np.float32)

    def top(self, query: Vector, k: int, allowed: Mask) -> tuple[Floats, npt.NDArray[np.int64]]:
        if allowed.all():
            scores, rows = _faiss.knn(query[None], self._data[: self._size], k, metric=_faiss.METRIC_INNER_PRODUCT)
            return scores[0], rows[0]
        dots = np.where(allowed, self.dots(query), -np.inf)
        best = np.argpartition(-dots, k - 1)[:k]
        best = best[np.argsort(-dots[best], kind="stable")]
        return dots[best], best

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        self._data = self._data[rows]
        self._size = len(rows)


class _TorchRows:
    def __init__(self, dim: int, device: str) -> None:
        import torch

        self._size = 0
        self._data = torch.empty((0, dim), dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        return self._data.numel() * 4

    def append(self, vector: Vector) -> None:
        import torch

        if self._size == len(self._data):
            grown = self._data.new_empty((max(64, self._size + self._size // 2), self._data.shape[1]))
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        self._data[self._size] = torch.tensor(vector)
        self._size += 1

    def dots(self, query: Vector) -> Floats:
        return np.asarray(self._dots(query).cpu().numpy(), np.float32)

    def top(self, query: Vector, k: int, allowed: Mask) -> tuple[Floats, npt.NDArray[np.int64]]:
        import torch

        dots = self._dots(query)
        dots = dots.masked_fill(torch.tensor(~allowed, device=dots.device), -torch.inf)
        best = torch.topk(dots, min(k, self._size))
        return best.values.cpu().numpy(), best.indices.cpu().numpy()

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        import torch

        self._data = self._data[torch.tensor(rows, device=self._data.device)]
        self._size = len(rows)

    def _dots(self, query: Vector) -> torch.Tensor:
        import torch

        return self._data[: self._size] @ torch.tensor(query, device=self._data.device)


class VectorIndex:
    """At most one vector per slot. `device` is "cpu", or a torch device such as "cuda"."""

    def __init__(self, dim: int, device: str = "cpu") -> None:
        self.dim = dim
        self._rows: _Rows = _CpuRows(dim) if device == "cpu" else _TorchRows(dim, device)
        self._slot_of = Column(np.int32)  # per row; negative once the row is dead
        self._row_of = Column(np.int32)  # per slot; negative without a vector

    def __len__(self) -> int:
        return int(np.count_nonzero(self._row_of.values >= 0))

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, on whatever device."""
        return self._rows.nbytes + self._slot_of.nbytes + self._row_of.nbytes

    def put(self, slot: int, vector: Vector) -> None:
        """Give a slot its vector, or another one; the wrong dimension is `InvalidInput`."""
        vector = np.ascontiguousarray(vector, np.float32)
        if vector.shape != (self.dim,):
            raise InvalidInput(f"a vector of shape {vector.shape} does not fit an index of dimension {self.dim}")
        self.remove(slot)
        while len(self._row_of) <= slot:
            self._row_of.append(_NONE)
        self._row_of.values[slot] = len(self._rows)
        self._rows.append(vector)
        self._slot_of.append(slot)

    def remove(self, slot: int) -> None:
        """Forget the vector of a slot, if it has one."""
        row = int(self._row_of.values[slot]) if slot < len(self._row_of) else _NONE
        if row >= 0:
            self._row_of.values[slot] = _NONE
            self._slot_of.values[row] = _NONE

    def has(self, num_slots: int) -> Mask:
        """bool [num_slots]; which slots have a vector."""
        found = np.zeros(num_slots, np.bool_)
        found[: len(self._row_of)] = self._row_of.values >= 0
        return found

    def scores(self, query: Vector, num_slots: int) -> Floats:
        """float32 [num_slots]; the inner product with every slot's vector, nan where there is none."""
        out = np.full(num_slots, np.nan, np.float32)
        live = self._slot_of.values >= 0
        out[self._slot_of.values[live]] = self._rows.dots(self._fit(query))[live]
        return out

    def search(self, query: Vector, k: int, mask: Mask | None = None) -> tuple[Floats, Slots]:
        """The best k slots among those `mask` allows, best first: (scores, slots), fewer if there are fewer."""
        allowed = self._slot_of.values >= 0
        if mask is not None:
            allowed &= mask[np.maximum(self._slot_of.values, 0)]
        k = min(k, int(np.count_nonzero(allowed)))
        if k <= 0:
            return np.empty(0, np.float32), np.empty(0, np.int32)
        scores, rows = self._rows.top(self._fit(query), k, allowed)
        return scores, self._slot_of.values[rows]

    def compact(self, new_slot: Slots) -> None:
        """Renumber: slot s becomes new_slot[s], negative for slots to forget; dead rows are given back."""
        slots = self._slot_of.values
        target = np.where(slots >= 0, new_slot[np.maximum(slots, 0)], _NONE)
        rows = np.flatnonzero(target >= 0)
        self._rows.keep(rows)
        self._slot_of.replace(target[rows])
        row_of = np.full(int(target[rows].max(initial=_NONE)) + 1, _NONE, np.int32)
        row_of[target[rows]] = np.arange(len(rows))
        self._row_of.replace(row_of)

    @property
    def num_dead(self) -> int:
        """Rows that hold memory for nobody."""
        return int(np.count_nonzero(self._slot_of.values < 0))

    def check(self) -> None:
        """Raise `CorruptStore` unless rows and slots point at each other."""
        slots = np.flatnonzero(self._row_of.values >= 0)
        rows = self._row_of.values[slots]
        consistent = len(self._slot_of) == len(self._rows) and np.all(self._slot_of.values[rows] == slots)
        if not consistent or len(slots) != len(self._slot_of) - self.num_dead:
            raise CorruptStore("vector index: rows and slots disagree")

    def _fit(self, query: Vector) -> Any:
        query = np.ascontiguousarray(query, np.float32)
        if query.shape != (self.dim,):
            raise InvalidInput(f"a query vector of shape {query.shape} does not fit dimension {self.dim}")
        return query
