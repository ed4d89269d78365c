"""What filters and ranking need to know of each document, in columns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.stores.columns import Column
from lightmem_engine.text import num_tokens
from lightmem_engine.types import KINDS, ROLES, STATES, Columns, IndexDoc

Slots = npt.NDArray[np.int32]

_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_KIND = {kind: i for i, kind in enumerate(KINDS)}
_STATE = {state: i for i, state in enumerate(STATES)}
_ROLE = {role: i for i, role in enumerate(ROLES)}
_DTYPES: dict[str, npt.DTypeLike] = {
    "live": np.bool_,
    "event_time": np.int64,
    "day": np.int32,
    "valid_to": np.int64,
    "recorded_at": np.int64,
    "kind": np.uint8,
    "state": np.uint8,
    "role": np.uint8,
    "speaker": np.int32,
    "session": np.int32,
    "num_tokens": np.int32,
    "asks": np.bool_,
    "is_folded": np.bool_,
}
_EMPTY: Mapping[str, Any] = {}


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of an aware time."""
    return round(moment.timestamp() * 1000)


class Names:
    """Strings by number, in order of appearance."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._code: dict[str, int] = {}

    def code(self, name: str) -> int:
        """The number of a name, given out on first sight."""
        found = self._code.get(name)
        if found is None:
            found = self._code[name] = len(self.all)
            self.all.append(name)
        return found


class Attributes:
    """One row per slot, in the order of `append`."""

    def __init__(self) -> None:
        self._columns = {name: Column(dtype) for name, dtype in _DTYPES.items()}
        self._refs: list[str] = []
        self._heirs: list[str] = []
        self._tags: list[tuple[str, ...]] = []
        self._metadata: list[Mapping[str, Any]] = []
        self._speakers = Names()
        self.sessions = Names()

    def __len__(self) -> int:
        return len(self._refs)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, metadata not counted."""
        strings = sum(map(len, self._refs)) + 80 * len(self._refs)
        names = sum(100 + len(name) for name in (*self._speakers.all, *self.sessions.all))
        return sum(column.nbytes for column in self._columns.values()) + strings + names

    def append(self, doc: IndexDoc) -> None:
        """Add the row of a new slot."""
        for name, value in self._row(doc).items():
            self._columns[name].append(value)
        self._columns["num_tokens"].append(num_tokens(doc.text))
        self._columns["asks"].append(doc.text.rstrip().endswith(("?", "？", "؟")))
        self._refs.append(doc.ref)
        self._heirs.append(doc.heir)
        self._tags.append(doc.tags)
        self._metadata.append(doc.metadata or _EMPTY)

    def relabel(self, slot: int, doc: IndexDoc) -> None:
        """Replace everything but what derives from the text."""
        for name, value in self._row(doc).items():
            self._columns[name].values[slot] = value
        self._refs[slot] = doc.ref
        self._heirs[slot] = doc.heir
        self._tags[slot] = doc.tags
        self._metadata[slot] = doc.metadata or _EMPTY

    def remove(self, slot: int) -> None:
        """Mark a slot as gone and drop what it said."""
        self._columns["live"].values[slot] = False
        self._refs[slot] = self._heirs[slot] = ""
        self._tags[slot] = ()
        self._metadata[slot] = _EMPTY

    def compact(self, new_slot: Slots) -> None:
        """Renumber: slot s becomes new_slot[s], negative for slots to forget; order is kept."""
        kept = np.flatnonzero(new_slot >= 0)
        for column in self._columns.values():
            column.replace(column.values[kept])
        self._refs = [self._refs[i] for i in kept]
        self._heirs = [self._heirs[i] for i in kept]
        self._tags = [self._tags[i] for i in kept]
        self._metadata = [self._metadata[i] for i in kept]

    def columns(self, before: Slots, after: Slots) -> Columns:
        """Views of everything, with who is next to whom."""
        arrays = {name: column.values for name, column in self._columns.items()}
        return Columns(
            **arrays,
            before=before,
            after=after,
            refs=self._refs,
            heirs=self._heirs,
            tags=self._tags,
            metadata=self._metadata,
            speakers=self._speakers.all,
            sessions=self.sessions.all,
        )

    def _row(self, doc: IndexDoc) -> dict[str, object]:
        return {
            "live": True,
            "is_folded": bool(doc.heir),
            "event_time": _FIRST if doc.event_time is None else milliseconds(doc.event_time),
            "day": 0 if doc.event_time is None else doc.event_time.date().toordinal(),
            "valid_to": _LAST if doc.valid_to is None else milliseconds(doc.valid_to),
            "recorded_at": _FIRST if doc.recorded_at is None else milliseconds(doc.recorded_at),
            "kind": _KIND[doc.kind],
            "state": _STATE[doc.state],
            "role": _ROLE[doc.role],
            "speaker": self._speakers.code(doc.speaker),
            "session": self.sessions.code(doc.session),
        }
