"""The words that all nouns share."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]  # [dim], unit length
Vectors = npt.NDArray[np.float32]  # [n, dim], unit rows
Floats = npt.NDArray[np.float32]

Role = Literal["user", "assistant", "system", "tool"]
Kind = Literal["turn", "fact", "relation", "event", "summary"]
State = Literal["pending", "active", "superseded", "archived", "expired"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # the place in these tuples is the code in a column
STATES: tuple[State, ...] = get_args(State)
ROLES: tuple[Role, ...] = get_args(Role)
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Priority(IntEnum):
    """Classes of work on a device; smaller goes first, as in vLLM's queue. AGED: background work that has waited so
    long for its admission that it runs beside the foreground."""

    FOREGROUND = 0
    AGED = 1
    INGEST = 5
    SLEEP = 10
