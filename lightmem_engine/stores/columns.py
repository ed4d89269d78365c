"""A numpy array that grows: the building block of the in-memory indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_MIN_CAPACITY = 8


class Column:
    """One value per slot, appended at the end; memory is at most about 1.25 times what is used."""

    __slots__ = ("_data", "_size")

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._data: npt.NDArray[Any] = np.empty(0, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> npt.NDArray[Any]:
        """A view of all values; valid until the next append."""
        return self._data[: self._size]

    @property
    def nbytes(self) -> int:
        """Bytes held, spare capacity included."""
        return self._data.nbytes

    def append(self, value: object) -> None:
        """Add one value."""
        self._reserve(1)
        self._data[self._size] = value
        self._size += 1

    def extend(self, values: npt.ArrayLike) -> None:
        """Add several values."""
        array = np.asarray(values, self._data.dtype)
        self._reserve(len(array))
        self._data[self._size : self._size + len(array)] = array
        self._size += len(array)

    def replace(self, values: npt.NDArray[Any]) -> None:
        """Hold exactly these values instead; the array is taken over, not copied, where the dtype agrees."""
        self._data = np.ascontiguousarray(values, self._data.dtype)
        self._size = len(self._data)

    def _reserve(self, extra: int) -> None:
        need = self._size + extra
        if need > len(self._data):
            capacity = max(need, _MIN_CAPACITY, len(self._data) + (len(self._data) >> 2))
            grown = np.empty(capacity, self._data.dtype)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
